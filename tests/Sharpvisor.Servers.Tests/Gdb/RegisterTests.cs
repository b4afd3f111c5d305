using System.Globalization;
using System.Xml.Linq;
using Sharpvisor.Cpu.State;
using Sharpvisor.Servers.Gdb;

namespace Sharpvisor.Servers.Tests.Gdb;

/// <summary>Registers by number, and the description that says what they are.</summary>
public sealed class RegisterTests
{
    private const int Rip = 16, Eflags = 17, Cs = 18;

    [Fact]
    public async Task The_description_names_each_register_of_g_in_its_order()
    {
        await using var client = await GdbClient.AttachAsync();
        var description = await DescribeAsync(client);
        Assert.Equal("i386:x86-64", description.Root!.Element("architecture")!.Value);
        var registers = description.Descendants("reg").ToList();
        Assert.Equal(Enumerable.Range(0, registers.Count), registers.Select(r => (int)r.Attribute("regnum")!));
        Assert.Equal(registers.Count, registers.Select(r => (string)r.Attribute("name")!).Distinct().Count());
        string[] wanted = ["rax", "r15", "rip", "eflags", "cs", "gs", "st7", "fop", "xmm15", "mxcsr", "ymm15h", "fs_base", "gs_base", "k_gs_base", "cr0", "cr2", "cr3", "cr4", "cr8", "efer", "lpc"];
        Assert.Subset(registers.Select(r => (string)r.Attribute("name")!).ToHashSet(), wanted.ToHashSet());
        // Types are declared before, or are gdb's own.
        var declared = description.Descendants().Where(e => e.Attribute("id") is not null).Select(e => (string)e.Attribute("id")!).ToHashSet();
        string[] known = ["int", "int32", "int64", "uint32", "uint64", "uint128", "code_ptr", "data_ptr", "i387_ext"];
        Assert.All(registers, r => Assert.Contains((string)r.Attribute("type")!, declared.Concat(known)));
        var all = await client.AskAsync("g");
        Assert.Equal(registers.Sum(r => (int)r.Attribute("bitsize")!) / 4, all.Length);
        var at = 0;
        for (var i = 0; i < registers.Count; i++)
        {
            var length = (int)registers[i].Attribute("bitsize")! / 4;
            Assert.Equal(all.Substring(at, length), await client.AskAsync($"p{i:x}"));
            at += length;
        }

        Assert.Equal("E22", await client.AskAsync($"p{registers.Count:x}"));
    }

    /// <summary>The names are in the order of gdb, not in that of the encoding: rbx comes second.</summary>
    [Fact]
    public async Task Each_register_has_its_value()
    {
        var target = new FakeTarget();
        ref var state = ref target.States[0];
        state.KernelGsBase = 0xFFFF_8880_1234_5678;
        state.Ymm[15] = new YmmValue { Q0 = 1, Q1 = 2, Q2 = 3, Q3 = 4 };
        state.Mxcsr = 0x1F80;
        await using var client = await GdbClient.AttachAsync(target);
        var number = (await DescribeAsync(client)).Descendants("reg").ToDictionary(r => (string)r.Attribute("name")!, r => (int)r.Attribute("regnum")!);
        async Task IsAsync(string name, string value) => Assert.Equal(value, await client.AskAsync($"p{number[name]:x}"));
        await IsAsync("rax", "0000000000000000");
        await IsAsync("rbx", "0303030303030303");
        await IsAsync("rcx", "0101010101010101");
        await IsAsync("rsp", "0404040404040404");
        await IsAsync("r8", "0808080808080808");
        await IsAsync("rip", "0010000000000000");
        await IsAsync("eflags", "02000000");
        await IsAsync("cs", "08000000");
        await IsAsync("k_gs_base", "785634128088ffff");
        await IsAsync("mxcsr", "801f0000");
        await IsAsync("xmm15", "01000000000000000200000000000000");
        await IsAsync("ymm15h", "03000000000000000400000000000000");
    }

    [Fact]
    public async Task Everything_that_is_written_is_read_again_and_nothing_else_changes()
    {
        var target = new FakeTarget();
        target.States[0].Cr0 = 0x31; // protected mode, no paging
        await using var client = await GdbClient.AttachAsync(target);
        var registers = (await DescribeAsync(client)).Descendants("reg").ToList();
        string[] readOnly = ["lsp", "ldt", "ldt_base", "tr", "tr_base", "dr0", "dr1", "dr2", "dr3", "dr6", "dr7", "xcr0", "star", "lstar", "cstar", "fmask", "sysenter_cs", "sysenter_esp", "sysenter_eip"];
        string[] parts = ["rsp", "cs", "ss", "ds", "es", "fs", "gs", "eflags", "mxcsr", "ftag", "fctrl", "fstat", "fiseg", "foseg", "fop", "cr8", "gdt_limit", "idt_limit", "rip", "lpc", "ip", "efer", "cs_base", "cr0"];
        foreach (var register in registers)
        {
            var (name, number, digits) = ((string)register.Attribute("name")!, (int)register.Attribute("regnum")!, (int)register.Attribute("bitsize")! / 4);
            if (readOnly.Contains(name) || parts.Contains(name))
                continue;
            var before = await client.AskAsync("g");
            var value = string.Concat(Enumerable.Range(0, digits / 2).Select(i => ((i * 17) + number).ToString("x2", CultureInfo.InvariantCulture)[^2..]));
            Assert.Equal("OK", await client.AskAsync($"P{number:x}={value}"));
            Assert.Equal(value, await client.AskAsync($"p{number:x}"));
            var after = await client.AskAsync("g");
            var at = registers.Take(number).Sum(r => (int)r.Attribute("bitsize")! / 4);
            Assert.Equal(before[..at], after[..at]);
            Assert.Equal(before[(at + digits)..], after[(at + digits)..]);
        }
    }

    [Fact]
    public async Task G_writes_what_g_has_read()
    {
        var target = new FakeTarget();
        await using var client = await GdbClient.AttachAsync(target);
        var all = await client.AskAsync("g");
        var before = target.States[0];
        Assert.Equal("OK", await client.AskAsync("G" + all));
        Assert.Equal(all, await client.AskAsync("g"));
        Assert.Equal(before.Segments[1].Attributes, target.States[0].Segments[1].Attributes);
        Assert.Equal("OK", await client.AskAsync("Gff" + all[2..]));
        Assert.Equal(0xFFUL, target.States[0].Gpr[0]);
        foreach (var wrong in new[] { all[..^2], all + "00", "zz" + all[2..], "" })
            Assert.Equal("E22", await client.AskAsync("G" + wrong));
        Assert.Equal(0xFFUL, target.States[0].Gpr[0]);
    }

    /// <summary>gdb's program counter is a linear address: what it compares with breakpoints and reads code at.</summary>
    [Fact]
    public async Task In_real_mode_the_program_counter_is_linear_and_selectors_set_bases()
    {
        var target = new FakeTarget();
        ref var state = ref target.States[0];
        state.Efer = 0;
        state.Rip = 0xE05B;
        state.Gpr[4] = 0x1234_6F00;
        state.Segments[1] = new SegmentRegister { Selector = 0xF000, Base = 0xF0000, Limit = 0xFFFF, Attributes = 0x93 };
        state.Segments[2] = new SegmentRegister { Selector = 0x9000, Base = 0x90000, Limit = 0xFFFF, Attributes = 0x93 };
        await using var client = await GdbClient.AttachAsync(target);
        var number = (await DescribeAsync(client)).Descendants("reg").ToDictionary(r => (string)r.Attribute("name")!, r => (int)r.Attribute("regnum")!);
        Assert.Equal("5be00f0000000000", await client.AskAsync($"p{Rip:x}"));
        Assert.Equal("5be00f0000000000", await client.AskAsync($"p{number["lpc"]:x}"));
        Assert.Equal("5be0000000000000", await client.AskAsync($"p{number["ip"]:x}"));
        Assert.Equal("006f090000000000", await client.AskAsync($"p{number["lsp"]:x}"));
        Assert.Equal("OK", await client.AskAsync($"P{Rip:x}=60e00f0000000000"));
        Assert.Equal(0xE060UL, target.States[0].Rip);
        Assert.Equal("OK", await client.AskAsync($"P{Cs:x}=34120000"));
        Assert.Equal(0x12340UL, target.States[0].Segments[1].Base);
        Assert.Equal(0xE060UL, target.States[0].Rip);
        // By G, the program counter counts from the new base.
        var all = await client.AskAsync("g");
        all = all[..(Rip * 16)] + "0010000000000000" + all[((Rip + 1) * 16)..];
        var cs = (Rip + 1) * 16 + 8;
        all = all[..cs] + "00010000" + all[(cs + 8)..];
        Assert.Equal("OK", await client.AskAsync("G" + all));
        Assert.Equal((0x1000UL, 0x0UL), (target.States[0].Segments[1].Base, target.States[0].Rip));
    }

    [Fact]
    public async Task A_selector_of_protected_mode_loads_its_descriptor()
    {
        var target = new FakeTarget();
        ref var state = ref target.States[0];
        state.Cr0 = 1;
        state.Gdtr = new TableRegister { Base = 0x2000, Limit = 0x1F };
        // Base 12345678h, limit FFFFFh pages, code, 32 bits; then one that is not present, and a system segment.
        new byte[] { 0xFF, 0xFF, 0x78, 0x56, 0x34, 0x9B, 0xCF, 0x12 }.CopyTo(target.Memory, 0x2008);
        new byte[] { 0xFF, 0xFF, 0, 0, 0, 0x1B, 0xCF, 0 }.CopyTo(target.Memory, 0x2010);
        new byte[] { 0xFF, 0xFF, 0, 0, 0, 0x89, 0xCF, 0 }.CopyTo(target.Memory, 0x2018);
        await using var client = await GdbClient.AttachAsync(target);
        const int ds = 20;
        Assert.Equal("OK", await client.AskAsync($"P{ds:x}=0b000000"));
        Assert.Equal((0x12345678UL, 0xFFFF_FFFFU, (ushort)0xB, (ushort)0xC09B), (target.States[0].Segments[3].Base, target.States[0].Segments[3].Limit, target.States[0].Segments[3].Selector, target.States[0].Segments[3].Attributes));
        foreach (var wrong in new[] { "10000000", "18000000", "20000000", "ffff0000", "0c000000" })
            Assert.Equal("E22", await client.AskAsync($"P{ds:x}={wrong}"));
        Assert.Equal(0xB, target.States[0].Segments[3].Selector);
        Assert.Equal("OK", await client.AskAsync($"P{ds:x}=00000000"));
        Assert.False(target.States[0].Segments[3].Present);
    }

    [Fact]
    public async Task Flags_keep_their_reserved_bits()
    {
        var target = new FakeTarget();
        await using var client = await GdbClient.AttachAsync(target);
        Assert.Equal("OK", await client.AskAsync($"P{Eflags:x}=ffffffff"));
        Assert.Equal(0x3F_7FD7UL, target.States[0].Rflags);
        Assert.Equal("OK", await client.AskAsync($"P{Eflags:x}=00000000"));
        Assert.Equal(2UL, target.States[0].Rflags);
    }

    /// <summary>FSAVE's tag word (SDM vol. 1, 8.1.7) is by physical register, ST(i) by the top of the stack.</summary>
    [Fact]
    public void Tags_of_the_x87_are_those_of_fsave()
    {
        var state = default(CpuState);
        Span<byte> area = state.X87;
        const int top = 5;
        area[3] = top << 3;
        area[4] = 0b1111_0000; // physical 4 to 7
        void Set(int physical, ushort exponent, ulong mantissa)
        {
            Span<byte> inner = state.X87;
            var at = X87Area.Registers + (((physical - top) & 7) * X87Area.RegisterSize);
            System.Buffers.Binary.BinaryPrimitives.WriteUInt64LittleEndian(inner[at..], mantissa);
            System.Buffers.Binary.BinaryPrimitives.WriteUInt16LittleEndian(inner[(at + 8)..], exponent);
        }

        Set(4, 0x3FFF, 1UL << 63); // 1
        Set(5, 0, 0);
        Set(6, 0x7FFF, 1UL << 63); // infinity
        Set(7, 0x3FFF, 1); // unnormal
        Assert.Equal(0b10_10_01_00_11_11_11_11UL, X87Area.ReadTags(in state));
        X87Area.WriteTags(ref state, 0b11_00_11_10_01_11_11_00);
        Assert.Equal(0b0101_1001, ((ReadOnlySpan<byte>)state.X87)[4]);
    }

    [Fact]
    public async Task Another_view_counts_from_when_its_description_is_read()
    {
        var target = new FakeTarget();
        await using var client = await GdbClient.AttachAsync(target);
        var all = await client.AskAsync("g");
        Assert.Contains("unset tdesc", await MonitorAsync(client, "view i8086"), StringComparison.Ordinal);
        Assert.Equal(all, await client.AskAsync("g"));
        var description = await DescribeAsync(client);
        Assert.Equal("i8086", description.Root!.Element("architecture")!.Value);
        Assert.Equal(description.Descendants("reg").Sum(r => (int)r.Attribute("bitsize")!) / 4, (await client.AskAsync("g")).Length);
        Assert.Equal("00100000", await client.AskAsync("p8")); // eip
        Assert.Equal("OK", await client.AskAsync("P0=78563412"));
        Assert.Equal("OK", await client.AskAsync("P5=ffffffff"));
        Assert.Equal((0x12345678UL, 0x05050505_FFFFFFFFUL), (target.States[0].Gpr[0], target.States[0].Gpr[5]));
        await MonitorAsync(client, "view amd64");
        await DescribeAsync(client);
        Assert.Equal(all.Length, (await client.AskAsync("g")).Length);
    }

    internal static async Task<string> MonitorAsync(GdbClient client, string command)
    {
        await client.SendAsync("qRcmd," + Convert.ToHexStringLower(System.Text.Encoding.UTF8.GetBytes(command)));
        var output = "";
        string reply;
        for (reply = await client.ReplyAsync(); reply.StartsWith('O') && reply != "OK"; reply = await client.ReplyAsync())
            output += System.Text.Encoding.UTF8.GetString(Convert.FromHexString(reply[1..]));
        Assert.Equal("OK", reply);
        return output;
    }

    private static async Task<XDocument> DescribeAsync(GdbClient client)
    {
        var text = "";
        string part;
        do
        {
            part = await client.AskAsync($"qXfer:features:read:target.xml:{text.Length:x},1f3");
            text += part[1..];
        }
        while (part[0] == 'm');
        Assert.Equal('l', part[0]);
        var settings = new System.Xml.XmlReaderSettings { DtdProcessing = System.Xml.DtdProcessing.Ignore, XmlResolver = null };
        using var reader = System.Xml.XmlReader.Create(new StringReader(text), settings);
        return XDocument.Load(reader);
    }
}
