using Sharpvisor.Tests.Boot;

namespace Sharpvisor.Cli.Tests;

/// <summary>Files with a guest of a few instructions.</summary>
internal static class TinyGuest
{
    /// <summary>Says Hi on COM1, then echoes what it is sent.</summary>
    public static void WriteEcho(string path) => Write(
        path,
        [
            0x66, 0xBA, 0xF8, 0x03, // mov dx,3f8h
            0xB0, (byte)'H', 0xEE, 0xB0, (byte)'i', 0xEE, // out dx,al
            0x66, 0xBA, 0xFD, 0x03, // wait: mov dx,3fdh
            0xEC, 0xA8, 0x01, // in al,dx; test al,1
            0x74, 0xFB, // jz -5
            0x66, 0xBA, 0xF8, 0x03, 0xEC, 0xEE, // mov dx,3f8h; in al,dx; out dx,al
            0xEB, 0xEF, // jmp wait
        ]);

    /// <summary>Writes a byte to port 0F4h.</summary>
    public static void WriteDebugExit(string path, byte value) => Write(path, [0xB0, value, 0xE6, 0xF4, 0xF4]);

    /// <summary>Takes a triple fault: UD2 without an IDT.</summary>
    public static void WriteTripleFault(string path) => Write(path, [0x0F, 0x0B]);

    private static void Write(string path, byte[] code)
    {
        var image = SyntheticKernel.Elf(is64: false, note: 0x1000040);
        code.CopyTo(image, 0x240);
        File.WriteAllBytes(path, image);
    }
}
