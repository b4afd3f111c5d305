using System.Text;

namespace Sharpvisor.Core.Display;

/// <summary>A text mode's screen: cells row by row, and where the cursor is.</summary>
/// <param name="Columns">Cells in a row.</param>
/// <param name="Rows">Rows of cells.</param>
/// <param name="Cells">Character (code page 437) in the low byte, attribute in the high one, as in video memory.</param>
/// <param name="CursorColumn">-1 while the cursor is not shown.</param>
/// <param name="CursorRow">-1 while the cursor is not shown.</param>
public sealed record TextScreen(int Columns, int Rows, ushort[] Cells, int CursorColumn, int CursorRow)
{
    /// <summary>The Unicode characters of code page 437 as a VGA's font shows them, 00h included.</summary>
    public static readonly string CodePage437 =
        " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼" +
        " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~⌂" +
        "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀" +
        "αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00A0";

    /// <summary>The text of a row, without blanks at its end.</summary>
    public string Line(int row)
    {
        var text = new StringBuilder(Columns);
        for (var i = 0; i < Columns; i++)
            text.Append(CodePage437[Cells[(row * Columns) + i] & 0xFF]);
        return text.ToString().TrimEnd(' ', '\u00A0');
    }

    /// <summary>All rows, one line each.</summary>
    public override string ToString() => string.Join('\n', Enumerable.Range(0, Rows).Select(Line));
}
