namespace Sharpvisor.Servers.Vnc.Encodings;

/// <summary>The distinct values of a few pixels, numbered in the order in which they come, as long as they are not too many.</summary>
internal sealed class Palette
{
    public const int Capacity = 256;

    private const int Slots = 1024; // four times the capacity: a search ends soon
    private readonly uint[] _values = new uint[Capacity];
    private readonly int[] _counts = new int[Capacity];
    private readonly short[] _slots = new short[Slots]; // 0: free, else an index and one

    public int Count { get; private set; }

    public ReadOnlySpan<uint> Values => _values.AsSpan(0, Count);

    /// <summary>How many pixels have a value.</summary>
    public int CountOf(int index) => _counts[index];

    /// <summary>Replaces what it holds.</summary>
    /// <returns>False when there are more than so many values; then it holds only some.</returns>
    public bool TryFill(ReadOnlySpan<uint> pixels, int maximum)
    {
        Array.Clear(_slots);
        Count = 0;
        for (var i = 0; i < pixels.Length;)
        {
            var value = pixels[i];
            var run = pixels[i..].IndexOfAnyExcept(value) is var end && end < 0 ? pixels.Length - i : end;
            ref var slot = ref _slots[Find(value)];
            if (slot == 0)
            {
                if (Count == maximum)
                    return false;
                _values[Count] = value;
                _counts[Count] = 0;
                slot = (short)++Count;
            }

            _counts[slot - 1] += run;
            i += run;
        }

        return true;
    }

    /// <summary>The index of a value that it holds.</summary>
    public int IndexOf(uint value) => _slots[Find(value)] - 1;

    private int Find(uint value)
    {
        var slot = (int)((value * 0x9E37_79B1) >> 22);
        while (_slots[slot] != 0 && _values[_slots[slot] - 1] != value)
            slot = (slot + 1) % Slots;
        return slot;
    }
}
