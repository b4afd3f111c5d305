using Iced.Intel;

namespace Conformance.Fuzzing;

/// <summary>Where an encoder writes to.</summary>
internal sealed class ByteWriter : CodeWriter
{
    public List<byte> Bytes { get; } = [];

    public override void WriteByte(byte value) => Bytes.Add(value);
}
