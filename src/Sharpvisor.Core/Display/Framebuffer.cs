namespace Sharpvisor.Core.Display;

/// <summary>A picture of 32-bit pixels, 0x00RRGGBB, row by row without gaps. Not thread safe.</summary>
public sealed class Framebuffer
{
    /// <summary>Memory for so many pixels is kept for smaller pictures, more is given back.</summary>
    private const int KeptPixels = 1 << 21;

    private uint[] _pixels = [];

    /// <summary>In pixels; 0 before the first <see cref="Resize"/>.</summary>
    public int Width { get; private set; }

    public int Height { get; private set; }

    /// <summary><see cref="Width"/> times <see cref="Height"/> pixels.</summary>
    public Span<uint> Pixels => _pixels.AsSpan(0, Width * Height);

    public Span<uint> Row(int y) => Pixels.Slice(y * Width, Width);

    /// <summary>Changes the size; the content is undefined afterwards if it did change.</summary>
    /// <exception cref="ArgumentOutOfRangeException">A side is less than 1 or more than 16,384.</exception>
    public void Resize(int width, int height)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(width, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(height, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(width, 16_384);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(height, 16_384);
        if (_pixels.Length < width * height || (_pixels.Length > KeptPixels && width * height <= KeptPixels))
            _pixels = new uint[width * height];
        Width = width;
        Height = height;
    }
}
