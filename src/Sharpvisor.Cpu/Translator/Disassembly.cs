using System.Globalization;
using Iced.Intel;

namespace Sharpvisor.Cpu.Translator;

/// <summary>Guest code as text.</summary>
internal static class Disassembly
{
    public static IEnumerable<string> Lines(byte[] code, ulong address, int bitness)
    {
        var decoder = Decoder.Create(bitness, code, address);
        while (decoder.IP < address + (ulong)code.Length)
        {
            var instruction = decoder.Decode();
            yield return string.Create(CultureInfo.InvariantCulture, $"{instruction.IP:x}  {instruction}");
        }
    }
}
