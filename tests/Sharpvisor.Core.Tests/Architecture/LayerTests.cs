using System.Text.RegularExpressions;
using System.Xml.Linq;

namespace Sharpvisor.Core.Tests.Architecture;

/// <summary>The rules of the layout that no compiler enforces, checked against the sources.</summary>
public sealed partial class LayerTests
{
    private static readonly string Root = FindRoot();
    private static readonly string[] Projects = [.. Directory.GetFiles(Path.Combine(Root, "src"), "*.csproj", SearchOption.AllDirectories).Where(IsSource)];

    [Theory]
    [InlineData("Sharpvisor.Core", new string[0])]
    [InlineData("Sharpvisor.Cpu", new[] { "Sharpvisor.Core" })]
    [InlineData("Sharpvisor.Devices", new[] { "Sharpvisor.Core" })]
    [InlineData("Sharpvisor.Backends", new[] { "Sharpvisor.Core" })]
    public void The_lower_layers_know_only_Core(string project, string[] allowed)
    {
        Assert.Equal(allowed, ReferencesOf(project));
    }

    [Fact]
    public void Unsafe_code_is_allowed_in_Core_and_Cpu_only()
    {
        var allowing = Projects
            .Where(p => XDocument.Load(p).Descendants("AllowUnsafeBlocks").Any(e => e.Value == "true"))
            .Select(p => Path.GetFileNameWithoutExtension(p));
        Assert.Equal(["Sharpvisor.Core", "Sharpvisor.Cpu"], allowing.Order());
    }

    [Fact]
    public void AspNet_is_used_in_Servers_only()
    {
        var users = Projects.Where(p => Path.GetFileNameWithoutExtension(p) != "Sharpvisor.Servers" &&
            (File.ReadAllText(p).Contains("AspNetCore", StringComparison.Ordinal) || File.ReadAllText(p).Contains("Sdk.Web", StringComparison.Ordinal)));
        Assert.Empty(users);
    }

    [Fact]
    public void Servers_know_the_package_only_and_no_layer_knows_them()
    {
        Assert.Equal(["Sharpvisor"], ReferencesOf("Sharpvisor.Servers"));
        var users = Projects.Select(p => Path.GetFileNameWithoutExtension(p)).Where(p => ReferencesOf(p).Contains("Sharpvisor.Servers"));
        Assert.Empty(users.Except(["Sharpvisor.Cli"]));
    }

    [Fact]
    public void A_VNC_server_does_not_wait_for_AspNet_to_load() =>
        Assert.DoesNotContain(SourcesOf(Path.Combine(Root, "src", "Sharpvisor.Servers", "Vnc")), f => File.ReadAllText(f).Contains("AspNetCore", StringComparison.Ordinal));

    [Fact]
    public void The_namespace_of_a_file_is_its_folder()
    {
        List<string> wrong = [];
        foreach (var project in Projects.Concat(Directory.GetFiles(Path.Combine(Root, "tests"), "*.csproj", SearchOption.AllDirectories).Where(IsSource)))
        {
            var folder = Path.GetDirectoryName(project)!;
            foreach (var file in SourcesOf(folder))
            {
                var below = Path.GetDirectoryName(Path.GetRelativePath(folder, file))!;
                var expected = Path.GetFileNameWithoutExtension(project) + (below.Length == 0 ? "" : "." + below.Replace('/', '.').Replace('\\', '.'));
                foreach (Match declared in Namespace().Matches(File.ReadAllText(file)))
                {
                    if (declared.Groups[1].Value != expected)
                        wrong.Add($"{Path.GetRelativePath(Root, file)}: {declared.Groups[1].Value} instead of {expected}");
                }
            }
        }

        Assert.Empty(wrong);
    }

    [Theory]
    [InlineData("Sharpvisor.Devices")]
    [InlineData("Sharpvisor.Backends")]
    public void Each_device_and_backend_begins_by_saying_what_it_is(string project)
    {
        var devices = SourcesOf(Path.Combine(Root, "src", project)).Where(f => Device().IsMatch(File.ReadAllText(f))).ToArray();
        Assert.NotEmpty(devices);
        var silent = devices.Where(f => !File.ReadAllText(f).StartsWith("// ", StringComparison.Ordinal));
        Assert.Empty(silent.Select(f => Path.GetRelativePath(Root, f)));
    }

    [Fact]
    public void Nothing_is_left_to_do()
    {
        var marks = Projects.SelectMany(p => SourcesOf(Path.GetDirectoryName(p)!))
            .Where(f => Unfinished().IsMatch(File.ReadAllText(f)));
        Assert.Empty(marks.Select(f => Path.GetRelativePath(Root, f)));
    }

    private static IEnumerable<string> ReferencesOf(string project) =>
        XDocument.Load(Path.Combine(Root, "src", project, project + ".csproj"))
            .Descendants("ProjectReference")
            .Select(r => Path.GetFileNameWithoutExtension(((string)r.Attribute("Include")!).Replace('\\', '/')));

    private static IEnumerable<string> SourcesOf(string folder) =>
        Directory.GetFiles(folder, "*.cs", SearchOption.AllDirectories).Where(IsSource);

    private static bool IsSource(string path) =>
        !path.Contains("/obj/", StringComparison.Ordinal) && !path.Contains("/bin/", StringComparison.Ordinal);

    private static string FindRoot()
    {
        var folder = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(folder, "Sharpvisor.slnx")))
            folder = Path.GetDirectoryName(folder) ?? throw new InvalidOperationException("run the tests from within the repository");
        return folder;
    }

    [GeneratedRegex(@"^namespace\s+([\w.]+)", RegexOptions.Multiline)]
    private static partial Regex Namespace();

    /// <summary>A class that a board or a user can name: what is behind its bases is a device or a backend.</summary>
    [GeneratedRegex(@"^public (sealed |partial )*class \w+[^{]*:[^{]*\b(IBusDevice|ByteWideDevice|IMsrDevice|ILocalInterruptController|I\w+Backend|\w+CharBackend)\b", RegexOptions.Multiline)]
    private static partial Regex Device();

    [GeneratedRegex(@"\b(TODO|FIXME|XXX|NotImplementedException)\b")]
    private static partial Regex Unfinished();
}
