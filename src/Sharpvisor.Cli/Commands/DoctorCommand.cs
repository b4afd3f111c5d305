using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using System.Text.Json;
using Sharpvisor.Boot;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Cli.Commands;

/// <summary>Checks what this host offers and says what to do about what is missing.</summary>
internal static class DoctorCommand
{
    private static readonly JsonSerializerOptions Json = new()
    {
        WriteIndented = true,
        PropertyNamingPolicy = JsonNamingPolicy.CamelCase,
        Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };

    public static async Task<int> RunAsync(string[] args, TextWriter output)
    {
        var json = false;
        foreach (var arg in args)
        {
            if (arg is not ("--json" or "-json"))
                throw new ConfigurationException($"unknown flag {arg}; doctor has --json");
            json = true;
        }

        Check[] checks = [Processor(), ExecutableMemory(), Memory(), TerminalCheck(), AptTools(), Firmware(), Guests(), Kvm()];
        if (json)
        {
            await output.WriteLineAsync(JsonSerializer.Serialize(checks, Json)).ConfigureAwait(false);
        }
        else
        {
            foreach (var check in checks)
            {
                await output.WriteLineAsync($"{check.Status,-5} {check.Name,-18} {check.Detail}").ConfigureAwait(false);
                if (check.Advice.Length > 0)
                    await output.WriteLineAsync($"      {"",-18} {check.Advice}").ConfigureAwait(false);
            }
        }

        return checks.Any(c => c.Status == "fail") ? 1 : 0;
    }

    private static Check Processor()
    {
        if (RuntimeInformation.ProcessArchitecture != Architecture.X64)
            return new("processor", "fail", $"{RuntimeInformation.ProcessArchitecture}", "vector and x87 instructions run on an x86-64 host only in this version");
        (string Name, bool Has)[] features =
        [
            ("SSE4.2", Sse42.IsSupported), ("POPCNT", Popcnt.IsSupported), ("AVX", Avx.IsSupported), ("AVX2", Avx2.IsSupported),
            ("FMA", Fma.IsSupported), ("BMI1", Bmi1.IsSupported), ("BMI2", Bmi2.IsSupported), ("AES", Aes.IsSupported),
        ];
        var has = string.Join(' ', features.Where(f => f.Has).Select(f => f.Name));
        var lacks = string.Join(' ', features.Where(f => !f.Has).Select(f => f.Name));
        var required = Sse42.IsSupported && Popcnt.IsSupported;
        return new(
            "processor",
            required ? "ok" : "fail",
            $"{Environment.ProcessorCount} cores with {has}",
            !required ? "x86-64-v2 is needed: a processor from 2009 or later" : lacks.Length > 0 ? $"guests will not see {lacks}" : "");
    }

    private static Check ExecutableMemory() => HostMemory.AllowsExecutable()
        ? new("executable memory", "ok", "allowed", "")
        : new("executable memory", "fail", "refused (mmap PROT_EXEC)", "allow it for this process: SELinux, seccomp or a hardened kernel forbids it");

    private static Check Memory()
    {
        try
        {
            var line = File.ReadLines("/proc/meminfo").First(l => l.StartsWith("MemAvailable:", StringComparison.Ordinal));
            var mib = long.Parse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1]) >> 10;
            return new("memory", mib >= 1024 ? "ok" : "warn", $"{mib} MiB available", mib >= 1024 ? "" : "a guest of 512 MiB may not fit");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or InvalidOperationException or FormatException)
        {
            return new("memory", "warn", "unknown: /proc/meminfo cannot be read", "");
        }
    }

    private static Check TerminalCheck()
    {
        var input = Terminal.IsTerminal(0);
        return new("terminal", "ok", input && Terminal.IsTerminal(1) ? "standard input and output" : $"standard input is {(input ? "" : "not ")}a terminal", input ? "" : "-serial stdio takes the input as it is; Ctrl-A is no command then");
    }

    private static Check AptTools()
    {
        string[] missing = [.. new[] { "apt-get", "dpkg-deb" }.Where(t => FindInPath(t) is null)];
        return missing.Length == 0
            ? new("Debian tools", "ok", "apt-get and dpkg-deb", "")
            : new("Debian tools", "warn", $"no {string.Join(" and no ", missing)}", "the demo cannot fetch its guests here: give your own with -kernel and -initrd");
    }

    private static Check Firmware() => FirmwareFiles.Find(FirmwareFiles.SeaBios, GuestCache.Firmware) is { } bios
        ? new("firmware", "ok", bios, "")
        : new("firmware", "warn", $"no {FirmwareFiles.SeaBios}", "only kernels can be started: install the package seabios, or give a BIOS with -bios");

    private static Check Guests()
    {
        string[] missing = [.. new[] { GuestCache.DemoKernel, GuestCache.DemoInitrd }.Where(f => !File.Exists(f))];
        return missing.Length == 0
            ? new("guest cache", "ok", GuestCache.Root, "")
            : new("guest cache", "warn", $"no {string.Join(", no ", missing)}", "./sharpvisor demo fetches it");
    }

    private static Check Kvm()
    {
        const string path = "/dev/kvm";
        if (!File.Exists(path))
            return new("/dev/kvm", "ok", "absent", "it is not needed");
        try
        {
            using var handle = File.OpenHandle(path, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite);
            return new("/dev/kvm", "ok", "present and usable by this user", "it is not needed, and not used in this version");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return new("/dev/kvm", "ok", "present, not usable by this user", "it is not needed");
        }
    }

    private static string? FindInPath(string tool) => (Environment.GetEnvironmentVariable("PATH") ?? "")
        .Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries)
        .Select(d => Path.Combine(d, tool))
        .FirstOrDefault(File.Exists);

    /// <param name="Status">"ok", "warn" or "fail".</param>
    internal sealed record Check(string Name, string Status, string Detail, string Advice);
}
