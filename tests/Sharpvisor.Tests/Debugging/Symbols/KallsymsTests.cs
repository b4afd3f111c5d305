using Sharpvisor.Debugging.Symbols;

namespace Sharpvisor.Tests.Debugging.Symbols;

public sealed class KallsymsTests
{
    private const ulong Base = 0xFFFF_FFFF_9A00_0000;

    [Theory]
    [InlineData(KallsymsLayout.Old, true)]
    [InlineData(KallsymsLayout.WithSequences, true)]
    [InlineData(KallsymsLayout.New, true)]
    [InlineData(KallsymsLayout.Old, false)]
    [InlineData(KallsymsLayout.New, false)]
    public void Each_layout_is_found_by_its_shape(KallsymsLayout layout, bool hasAbsolute)
    {
        var expected = Symbols(hasAbsolute);
        var builder = new SymbolTable.Builder();
        Assert.True(Kallsyms.TryRead(KallsymsImage.Make(expected, layout, Base, hasAbsolute), builder));
        Assert.Equal(expected.Select(s => new GuestSymbol(s.Address, s.Kind, s.Name)), builder.Build().All);
    }

    [Fact]
    public void A_table_of_names_is_looked_up_by_address_and_name()
    {
        var builder = new SymbolTable.Builder();
        Assert.True(Kallsyms.TryRead(KallsymsImage.Make(Symbols(true), KallsymsLayout.New, Base, true), builder));
        var table = builder.Build();
        Assert.True(table.TryGetAddress("x64_sys_read_7", out var address));
        Assert.Equal(Base + 0x1070, address);
        Assert.False(table.TryGetAddress("x64_sys_read", out _)); // a part of a name is none
        Assert.False(table.TryGetAddress("", out _));
        Assert.True(table.TryFindText(Base + 0x1074, out var symbol, out var size));
        Assert.Equal(("x64_sys_read_7", 0x10UL), (symbol.Name, size));
        Assert.False(table.TryFindText(Base - 1, out _, out _)); // per-CPU variables are no text
        Assert.True(table.TryFind(0x1234, out symbol));
        Assert.Equal("percpu", symbol.Name);
    }

    [Fact]
    public void A_file_s_table_is_moved_to_where_the_kernel_runs()
    {
        var builder = new SymbolTable.Builder();
        Assert.True(Kallsyms.TryRead(KallsymsImage.Make(Symbols(true), KallsymsLayout.Old, Base, true), builder, slide: 0x200000));
        var table = builder.Build();
        Assert.True(table.TryGetAddress("x64_sys_read_7", out var address));
        Assert.Equal(Base + 0x201070, address);
        Assert.True(table.TryGetAddress("percpu", out address));
        Assert.Equal(0x1000UL, address);
    }

    /// <summary>Whatever is in a guest's memory: no exception, no endless loop, no name longer than the kernel's.</summary>
    [Fact]
    public void Damaged_tables_are_refused_or_read_but_do_no_harm()
    {
        var random = new Random(7);
        var good = KallsymsImage.Make(Symbols(true), KallsymsLayout.New, Base, true, prefix: 0);
        var read = 0;
        for (var i = 0; i < 3000; i++)
        {
            var image = good.AsSpan(0, i % 3 == 0 ? random.Next(good.Length) : good.Length).ToArray();
            for (var k = random.Next(6); k >= 0 && image.Length > 0; k--)
                image[random.Next(image.Length)] = (byte)random.Next(256);
            var builder = new SymbolTable.Builder();
            read += Kallsyms.TryRead(image, builder) ? 1 : 0;
            Assert.All(builder.Build().All.Take(10), s => Assert.InRange(s.Name.Length, 0, 2048));
        }

        Assert.InRange(read, 1, 2999);
    }

    [Fact]
    public void An_image_full_of_digits_is_left_soon()
    {
        var image = new byte[32 << 20];
        for (var i = 0; i < image.Length; i++)
            image[i] = (byte)((i & 1) == 0 ? '0' + (i / 2 % 10) : 0);
        Assert.False(Kallsyms.TryRead(image, new SymbolTable.Builder()));
        // Numbers that could be counts everywhere, before a good table of tokens.
        var good = KallsymsImage.Make(Symbols(true), KallsymsLayout.New, Base, true, prefix: 0);
        var digits = good.AsSpan().IndexOf("0\01\02\03\04\05\06\07\08\09\0"u8);
        image = new byte[(24 << 20) + good.Length];
        good.CopyTo(image, 24 << 20);
        image.AsSpan((24 << 20) + 8, digits - 1000).Fill(1);
        for (var i = 0; i < 24 << 20; i += 8)
            image[i + 2] = 2;
        Assert.False(Kallsyms.TryRead(image, new SymbolTable.Builder()));
    }

    private static List<(ulong Address, char Kind, string Name)> Symbols(bool hasAbsolute)
    {
        List<(ulong, char, string)> symbols = [];
        if (hasAbsolute)
            symbols.AddRange([(0, 'A', "fixed_percpu_data"), (0x1000, 'A', "percpu")]);
        symbols.Add((Base, 'T', "_stext"));
        for (var i = 0; i < 700; i++)
            symbols.Add((Base + 0x1000 + ((ulong)i * 16), i % 2 == 0 ? 'T' : 't', $"x64_sys_read_{i}"));
        symbols.Add((Base + 0x8000, 't', "long" + string.Concat(Enumerable.Repeat("name_", 60))));
        symbols.Add((Base + 0x9000, 'T', "_etext"));
        symbols.Add((Base + 0xA000, 'D', "data"));
        return symbols;
    }
}
