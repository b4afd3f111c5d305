// The pointer that a client draws by itself (RFC 6143, 7.8.1). A standard VGA has no cursor that could be sent: a guest that
// has one draws it into the picture. What is right then depends on the guest, for clients do not agree on what they show
// when nobody tells them (TigerVNC an arrow, noVNC nothing).
//   Nobody in the guest listens to the mouse, or the screen shows text: nothing is drawn, and the client shows an arrow.
//   Otherwise the guest most likely draws its own, which follows with a delay and, for a PS/2 mouse, somewhere else: the
//   client shows a dot, which is not taken for a second cursor, and tells where the pointer leaves the window.
namespace Sharpvisor.Servers.Vnc;

internal sealed class CursorShape
{
    public static readonly CursorShape Arrow = new(
        0, 0,
        "#           ",
        "##          ",
        "#.#         ",
        "#..#        ",
        "#...#       ",
        "#....#      ",
        "#.....#     ",
        "#......#    ",
        "#.......#   ",
        "#........#  ",
        "#.........# ",
        "#......#####",
        "#...#..#    ",
        "#..##..#    ",
        "#.#  #..#   ",
        "##   #..#   ",
        "#     ##    ");

    public static readonly CursorShape Dot = new(
        1, 1,
        "...",
        ".#.",
        "...");

    private readonly uint[] _pixels;
    private readonly byte[] _mask;

    /// <param name="rows">'#' is black, '.' white, anything else shows what is below.</param>
    private CursorShape(int hotX, int hotY, params string[] rows)
    {
        (HotX, HotY, Width, Height) = (hotX, hotY, rows[0].Length, rows.Length);
        _pixels = new uint[Width * Height];
        var bytesOfRow = (Width + 7) / 8;
        _mask = new byte[bytesOfRow * Height];
        for (var y = 0; y < Height; y++)
        {
            for (var x = 0; x < Width; x++)
            {
                if (rows[y][x] == '.')
                    _pixels[(y * Width) + x] = 0xFF_FFFF;
                if (rows[y][x] is '.' or '#')
                    _mask[(y * bytesOfRow) + (x / 8)] |= (byte)(0x80 >> (x % 8));
            }
        }
    }

    /// <summary>The pixel that points.</summary>
    public int HotX { get; }

    public int HotY { get; }

    public int Width { get; }

    public int Height { get; }

    /// <summary>0x00RRGGBB, row by row.</summary>
    public ReadOnlySpan<uint> Pixels => _pixels;

    /// <summary>A bit for each pixel that is drawn, the left one highest, whole bytes a row.</summary>
    public ReadOnlySpan<byte> Mask => _mask;
}
