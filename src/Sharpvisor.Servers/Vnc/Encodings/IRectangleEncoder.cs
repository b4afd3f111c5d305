namespace Sharpvisor.Servers.Vnc.Encodings;

/// <summary>One encoding for one client, with the state that its decoder has.</summary>
internal interface IRectangleEncoder : IDisposable
{
    Encoding Encoding { get; }

    /// <summary>Writes the pixels of an area, without the rectangle's head.</summary>
    void Encode(ClientFrame frame, Area area, PixelConverter converter, RfbWriter writer);
}
