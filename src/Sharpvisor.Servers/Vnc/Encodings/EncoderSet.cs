namespace Sharpvisor.Servers.Vnc.Encodings;

/// <summary>The encoders of a connection: each is made once, as its zlib streams live as long as the connection.</summary>
internal sealed class EncoderSet : IDisposable
{
    /// <summary>Fast and far better than nothing; a client asks for another by a pseudo-encoding.</summary>
    public const int DefaultLevel = 2;

    private readonly Dictionary<Encoding, IRectangleEncoder> _encoders = [];

    /// <summary>Whether rectangles can be sent by it.</summary>
    public static bool Has(Encoding encoding) =>
        encoding is Encoding.Raw or Encoding.Hextile or Encoding.Zlib or Encoding.Tight or Encoding.Zrle;

    /// <param name="level">Of compression, 0 to 9; counts when the encoder is first used.</param>
    public IRectangleEncoder Get(Encoding encoding, int level)
    {
        if (!_encoders.TryGetValue(encoding, out var encoder))
        {
            encoder = encoding switch
            {
                Encoding.Hextile => new HextileEncoder(),
                Encoding.Zlib => new ZlibEncoder(level),
                Encoding.Tight => new TightEncoder(level),
                Encoding.Zrle => new ZrleEncoder(level),
                _ => new RawEncoder(),
            };
            _encoders.Add(encoding, encoder);
        }

        return encoder;
    }

    public void Dispose()
    {
        foreach (var encoder in _encoders.Values)
            encoder.Dispose();
    }
}
