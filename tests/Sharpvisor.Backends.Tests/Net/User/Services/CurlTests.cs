using System.Diagnostics;
using System.Globalization;
using System.Net;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Net.User.Services.Content;
using Sharpvisor.Backends.Net.User.Services.Http;
using Sharpvisor.Backends.Net.User.Services.Tftp;

namespace Sharpvisor.Backends.Tests.Net.User.Services;

/// <summary>What curl makes of the servers. Skipped where it is not installed.</summary>
public sealed class CurlTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("sharpvisor-curl-").FullName;
    private readonly byte[] _large = new byte[5_000_000];

    public CurlTests()
    {
        new Random(1).NextBytes(_large);
        File.WriteAllBytes(Path.Combine(_folder, "large file"), _large);
        File.WriteAllText(Path.Combine(_folder, "text"), "one\ntwo\n");
    }

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [CurlFact]
    public void Curl_reads_by_HTTP()
    {
        using var bridge = new HostBridge(new HttpService(new FolderContent(_folder), NullLogger.Instance));
        var url = $"http://127.0.0.1:{bridge.Port}/";
        Assert.Equal(_large, Curl(0, "-f", url + "large%20file"));
        Assert.Equal(_large[1000..2000], Curl(0, "-f", "-r", "1000-1999", url + "large%20file"));
        Assert.Equal(_large[^7..], Curl(0, "-f", "--http1.0", "-r", "-7", url + "large%20file"));
        Assert.Equal("one\ntwo\none\ntwo\n"u8.ToArray(), Curl(0, "-f", url + "text", url + "text"));
        Assert.Contains("Content-Length: 5000000", System.Text.Encoding.ASCII.GetString(Curl(0, "-f", "-I", url + "large%20file")), StringComparison.Ordinal);
        Assert.Empty(Curl(0, "-f", "-z", "1 Jan 2100", url + "text"));
        Curl(22, "-f", url + "nothing");
        Curl(22, "-f", "--path-as-is", url + "../../etc/passwd");
        Curl(22, "-f", "-d", "x=y", url + "text");
        Curl(22, "-f", "-r", "5000000-", url + "large%20file");

        // An interrupted download goes on.
        var part = Path.Combine(_folder, "part");
        File.WriteAllBytes(part, _large[..1_234_567]);
        Curl(0, "-f", "-C", "-", "-o", part, url + "large%20file");
        Assert.Equal(_large, File.ReadAllBytes(part));
    }

    [CurlFact]
    public void Curl_reads_by_TFTP()
    {
        using var service = new TftpService(new FolderContent(_folder), IPAddress.Parse("10.0.2.2"), 1500, NullLogger.Instance);
        using var bridge = new HostBridge(service, TftpService.Port);
        var url = $"tftp://127.0.0.1:{bridge.Port}/";
        Assert.Equal(_large, Curl(0, "--tftp-blksize", "1468", url + "large%20file"));
        Assert.Equal("one\ntwo\n"u8.ToArray(), Curl(0, url + "text"));
        Assert.Equal("one\ntwo\n"u8.ToArray(), Curl(0, "--tftp-no-options", url + "/text"));
        Assert.Equal("one\r\ntwo\r\n"u8.ToArray(), Curl(0, url + "text;mode=netascii"));
        Curl(68, url + "nothing");
        Curl(69, url + "%2e%2e/secret");
    }

    private static byte[] Curl(int exitCode, params string[] arguments)
    {
        using var process = Process.Start(new ProcessStartInfo("curl", ["-sS", "-m", "60", .. arguments]) { RedirectStandardOutput = true, RedirectStandardError = true })!;
        using var output = new MemoryStream();
        var error = process.StandardError.ReadToEndAsync();
        process.StandardOutput.BaseStream.CopyTo(output);
        process.WaitForExit();
        Assert.True(process.ExitCode == exitCode, string.Create(CultureInfo.InvariantCulture, $"curl {string.Join(' ', arguments)}: {process.ExitCode} {error.Result}"));
        return output.ToArray();
    }

    private sealed class CurlFactAttribute : FactAttribute
    {
        public CurlFactAttribute()
        {
            if (!(Environment.GetEnvironmentVariable("PATH") ?? "").Split(':').Any(d => File.Exists(Path.Combine(d, "curl"))))
                Skip = "curl is not installed";
        }
    }
}
