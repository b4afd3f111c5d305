using System.Runtime.InteropServices;

namespace Sharpvisor.Backends.Tests.Block;

/// <summary>
/// libvhdi or libqcow, which read images for forensics and share no code with QEMU or with us: installed, or fetched by
/// eng/guests.sh. Both have the same functions under different names. Used in a process of its own, as they may crash.
/// </summary>
internal sealed class OtherReader
{
    private const int OpenToRead = 1;

    private readonly nint _library;
    private readonly string _prefix;
    private nint _file;

    /// <param name="parent">What the image lies over.</param>
    private OtherReader(string format, string path, OtherReader? parent)
    {
        _library = Load(format);
        _prefix = $"{NameOf(format)}_file_";
        nint error = 0;
        Require(Function<Initialize>("initialize")(ref _file, ref error), error, path);
        Require(Function<Open>("open")(_file, path, OpenToRead, ref error), error, path);
        if (parent is not null)
            Require(Function<SetParent>("set_parent_file")(_file, parent._file, ref error), error, path);
        Require(Function<GetSize>("get_media_size")(_file, out var size, ref error), error, path);
        Length = (long)size;
    }

    private delegate int Initialize(ref nint file, ref nint error);

    private delegate int Open(nint file, [MarshalAs(UnmanagedType.LPUTF8Str)] string path, int flags, ref nint error);

    private delegate int SetParent(nint file, nint parent, ref nint error);

    private delegate int GetSize(nint file, out ulong size, ref nint error);

    private delegate nint ReadAt(nint file, [Out] byte[] buffer, nint length, long offset, ref nint error);

    private delegate int Describe(nint error, [Out] byte[] text, nint length);

    private long Length { get; }

    public static bool IsThere(string format) => Load(format) != 0;

    /// <summary>Copies a disk.</summary>
    /// <param name="paths">Of the images that lie over each other, the lowest first.</param>
    public static async Task CopyAsync(string format, IReadOnlyList<string> paths, Stream output)
    {
        OtherReader? reader = null;
        foreach (var path in paths)
            reader = new OtherReader(format, path, reader);
        for (long at = 0; at < reader!.Length; at += 1 << 20)
            await output.WriteAsync(reader.Read(at, (int)Math.Min(1 << 20, reader.Length - at)));
        await output.FlushAsync();
    }

    private byte[] Read(long offset, int length)
    {
        var all = new byte[length];
        for (var done = 0; done < length;)
        {
            var part = new byte[length - done];
            nint error = 0;
            var count = (int)Function<ReadAt>("read_buffer_at_offset")(_file, part, part.Length, offset + done, ref error);
            Require(count > 0 ? 1 : 0, error, $"read of {part.Length} bytes at {offset + done}");
            part.AsSpan(0, count).CopyTo(all.AsSpan(done));
            done += count;
        }

        return all;
    }

    private static string NameOf(string format) => format == "vhd" ? "libvhdi" : "libqcow";

    private static nint Load(string format)
    {
        var name = $"{NameOf(format)}.so.1";
        var home = Environment.GetEnvironmentVariable("SHARPVISOR_HOME") is { Length: > 0 } given ? given : AppContext.BaseDirectory;
        while (home is not null && !File.Exists(Path.Combine(home, "Sharpvisor.slnx")))
            home = Path.GetDirectoryName(home);
        var fetched = Path.Combine(home ?? "", ".cache", "guests", "readers", name);
        return NativeLibrary.TryLoad(fetched, out var library) || NativeLibrary.TryLoad(name, out library) ? library : 0;
    }

    private T Function<T>(string name) where T : Delegate => Marshal.GetDelegateForFunctionPointer<T>(NativeLibrary.GetExport(_library, _prefix + name));

    private void Require(int result, nint error, string what)
    {
        if (result == 1)
            return;
        var text = new byte[1000];
        if (error != 0)
            Marshal.GetDelegateForFunctionPointer<Describe>(NativeLibrary.GetExport(_library, _prefix.Replace("file_", "error_", StringComparison.Ordinal) + "sprint"))(error, text, text.Length);
        throw new InvalidOperationException($"{what}: {System.Text.Encoding.UTF8.GetString(text).TrimEnd('\0')}");
    }
}
