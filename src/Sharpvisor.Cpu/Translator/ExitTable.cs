namespace Sharpvisor.Cpu.Translator;

/// <summary>The ways out of generated code, by the numbers that it leaves with; 0 is none. Grows in pieces, so that what is there stays where it is.</summary>
internal sealed class ExitTable
{
    private const int PieceBits = 12, PieceSize = 1 << PieceBits;

    private ExitInfo[][] _pieces = [new ExitInfo[PieceSize]];

    public int Count { get; private set; } = 1;

    public ref ExitInfo this[int number] => ref _pieces[number >> PieceBits][number & (PieceSize - 1)];

    /// <returns>Its number.</returns>
    public int Add(in ExitInfo info)
    {
        var piece = Count >> PieceBits;
        if (piece == _pieces.Length)
            Array.Resize(ref _pieces, _pieces.Length * 2);
        _pieces[piece] ??= new ExitInfo[PieceSize];
        this[Count] = info;
        return Count++;
    }

    public void Clear()
    {
        _pieces = [_pieces[0]];
        Array.Clear(_pieces[0]);
        Count = 1;
    }
}
