using System.Diagnostics;
using Sharpvisor.Backends.Net.User.Services.Content;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Tests.Net.User.Services.Content;

/// <summary>Which files a guest can reach, by which names.</summary>
public sealed class ContentTests : IDisposable
{
    private readonly string _outside = Directory.CreateTempSubdirectory("sharpvisor-content-").FullName;
    private readonly string _folder;

    public ContentTests()
    {
        _folder = Path.Combine(_outside, "served");
        Directory.CreateDirectory(Path.Combine(_folder, "boot", "grub"));
        Directory.CreateDirectory(Path.Combine(_outside, "served-too"));
        File.WriteAllText(Path.Combine(_outside, "secret"), "secret");
        File.WriteAllText(Path.Combine(_outside, "served-too", "secret"), "secret");
        File.WriteAllText(Path.Combine(_folder, "file"), "hello");
        File.WriteAllText(Path.Combine(_folder, "boot", "grub", "grub.cfg"), "menu");
    }

    public void Dispose() => Directory.Delete(_outside, recursive: true);

    [Theory]
    [InlineData("file", "hello")]
    [InlineData("/file", "hello")]
    [InlineData("//file", "hello")]
    [InlineData("./file", "hello")]
    [InlineData("boot/grub/grub.cfg", "menu")]
    [InlineData("/boot//./grub/grub.cfg", "menu")]
    public void A_file_has_its_name_with_or_without_slashes_more(string name, string text)
    {
        var memory = new MemoryContent();
        memory.Set("file", "hello"u8.ToArray());
        memory.Set("/boot/grub/grub.cfg", "menu"u8.ToArray());
        foreach (var content in new INamedContent[] { new FolderContent(_folder), memory })
        {
            Assert.Equal(OpenResult.Opened, content.TryOpen(name, out var file));
            using (file)
            {
                Assert.Equal(text.Length, file!.Length);
                var bytes = new byte[text.Length - 1];
                file.Read(1, bytes);
                Assert.Equal(text[1..], System.Text.Encoding.ASCII.GetString(bytes));
                Assert.InRange(file.Modified!.Value, DateTimeOffset.UtcNow.AddDays(-1), DateTimeOffset.UtcNow.AddDays(1));
            }
        }
    }

    [Theory]
    [InlineData("nothing", OpenResult.NotFound)]
    [InlineData("file/below", OpenResult.NotFound)]
    [InlineData("/etc/passwd", OpenResult.NotFound)] // below the folder, not of the host
    [InlineData("", OpenResult.Refused)]
    [InlineData("/", OpenResult.Refused)]
    [InlineData(".", OpenResult.Refused)]
    [InlineData("boot/", OpenResult.Refused)]
    [InlineData("..", OpenResult.Refused)]
    [InlineData("../secret", OpenResult.Refused)]
    [InlineData("/../../../../etc/passwd", OpenResult.Refused)]
    [InlineData("boot/../file", OpenResult.Refused)]
    [InlineData("boot\\grub\\grub.cfg", OpenResult.Refused)]
    [InlineData("file\0.txt", OpenResult.Refused)]
    [InlineData("fi\nle", OpenResult.Refused)]
    [InlineData("file/", OpenResult.Refused)]
    public void Other_names_are_none(string name, OpenResult result)
    {
        var memory = new MemoryContent();
        memory.Set("file", "hello"u8.ToArray());
        foreach (var content in new INamedContent[] { new FolderContent(_folder), memory })
        {
            Assert.Equal(result, content.TryOpen(name, out var file));
            Assert.Null(file);
        }
    }

    [Fact]
    public void A_very_long_name_is_none()
    {
        var content = new FolderContent(_folder);
        Assert.Equal(OpenResult.NotFound, content.TryOpen(new string('x', 300), out _));
        Assert.Equal(OpenResult.NotFound, content.TryOpen(string.Join('/', Enumerable.Repeat("x", 10_000)), out _));
    }

    [Fact]
    public void Links_lead_anywhere_in_the_folder_and_not_out_of_it()
    {
        var content = new FolderContent(_folder);
        Link("inside", Path.Combine("boot", "grub", "grub.cfg"));
        Link("absolute", Path.Combine(_folder, "file"));
        Link("folder", "boot");
        foreach (var name in new[] { "inside", "absolute", "folder/grub/grub.cfg" })
        {
            Assert.Equal(OpenResult.Opened, content.TryOpen(name, out var file));
            file!.Dispose();
        }

        Link("out", "../secret");
        Link("sibling", "../served-too/secret"); // its path begins like the folder's
        Link("parent", "..");
        Link("host", "/etc/passwd");
        Link("device", "/dev/zero");
        Link("me", "/proc/self/root/etc/passwd");
        Link("loop", "loop");
        foreach (var name in new[] { "out", "sibling", "parent", "parent/secret", "parent/served/file-not", "host", "device", "me", "loop" })
            Assert.Equal(name == "parent/served/file-not" ? OpenResult.NotFound : OpenResult.Refused, content.TryOpen(name, out _));
        Link("nowhere", "gone");
        Assert.Equal(OpenResult.NotFound, content.TryOpen("nowhere", out _));
    }

    [Fact]
    public void What_is_no_file_is_refused_without_waiting()
    {
        var content = new FolderContent(_folder);
        Run("mkfifo", Path.Combine(_folder, "fifo"));
        Assert.Equal(OpenResult.Refused, content.TryOpen("fifo", out _));
        Assert.Equal(OpenResult.Refused, content.TryOpen("boot", out _));
        Assert.Equal(OpenResult.Refused, new FolderContent("/dev").TryOpen("null", out _));
    }

    [Fact]
    public void A_folder_given_by_a_link_is_the_one_that_it_leads_to()
    {
        var link = Path.Combine(_outside, "link");
        File.CreateSymbolicLink(link, _folder);
        Assert.Equal(OpenResult.Opened, new FolderContent(link).TryOpen("file", out var file));
        file!.Dispose();
        Assert.Equal(OpenResult.Opened, new FolderContent(_folder + "/").TryOpen("file", out file));
        file!.Dispose();
        Assert.Equal(OpenResult.Opened, new FolderContent("/").TryOpen(Path.Combine(_folder, "file"), out file));
        file!.Dispose();
    }

    [Fact]
    public void A_file_that_shrinks_is_an_error_and_not_an_end()
    {
        var path = Path.Combine(_folder, "file");
        File.WriteAllBytes(path, new byte[1000]);
        Assert.Equal(OpenResult.Opened, new FolderContent(_folder).TryOpen("file", out var file));
        using (file)
        {
            using (var stream = new FileStream(path, FileMode.Open, FileAccess.Write, FileShare.ReadWrite))
                stream.SetLength(500);
            Assert.Equal(1000, file!.Length);
            file.Read(0, new byte[500]);
            Assert.Throws<IOException>(() => file.Read(100, new byte[500]));
        }
    }

    [Fact]
    public void A_missing_folder_is_one_line()
    {
        foreach (var path in new[] { Path.Combine(_outside, "nothing"), Path.Combine(_folder, "file"), "" })
        {
            var error = Assert.Throws<ConfigurationException>(() => new FolderContent(path));
            Assert.StartsWith(path + ": ", error.Message, StringComparison.Ordinal);
            Assert.EndsWith("; give a folder that can be read", error.Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Files_in_memory_are_replaced_and_removed_while_they_are_read()
    {
        var memory = new MemoryContent();
        memory.Set("a/b", new byte[] { 1, 2, 3 });
        memory.TryOpen("a/b", out var old);
        memory.Set("/a//b", new byte[] { 4 });
        memory.TryOpen("a/b", out var @new);
        var bytes = new byte[3];
        old!.Read(0, bytes);
        Assert.Equal([1, 2, 3], bytes);
        Assert.Equal((1L, 3L), (@new!.Length, old.Length));
        Assert.True(memory.Remove("a/b"));
        Assert.False(memory.Remove("a/b"));
        Assert.Equal(OpenResult.NotFound, memory.TryOpen("a/b", out _));
        Assert.Throws<ArgumentException>(() => memory.Set("../x", new byte[1]));
    }

    private void Link(string name, string target) => File.CreateSymbolicLink(Path.Combine(_folder, name), target);

    private static void Run(string program, string argument)
    {
        using var process = Process.Start(program, [argument]);
        process.WaitForExit();
        Assert.Equal(0, process.ExitCode);
    }
}
