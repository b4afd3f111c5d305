// IRR, ISR and TMR: 256 bits each.
// Follows: Intel SDM volume 3, 11.8.4.
using System.Numerics;
using System.Runtime.CompilerServices;

namespace Sharpvisor.Devices.Interrupts;

/// <summary>A register of 256 bits, one for each vector: IRR, ISR, TMR.</summary>
internal struct VectorSet
{
    private Words _words;

    /// <summary>The highest vector in the set, or -1.</summary>
    public readonly int Highest
    {
        get
        {
            for (var i = 3; i >= 0; i--)
            {
                if (_words[i] != 0)
                    return (i * 64) + 63 - BitOperations.LeadingZeroCount(_words[i]);
            }

            return -1;
        }
    }

    public readonly bool Contains(int vector) => ((_words[(vector >> 6) & 3] >> (vector & 63)) & 1) != 0;

    public void Add(int vector) => _words[(vector >> 6) & 3] |= 1UL << (vector & 63);

    public void Remove(int vector) => _words[(vector >> 6) & 3] &= ~(1UL << (vector & 63));

    /// <summary>Bits 32 * <paramref name="index"/> to 32 * <paramref name="index"/> + 31, as the registers show them.</summary>
    public readonly uint Word(int index) => (uint)(_words[(index >> 1) & 3] >> (32 * (index & 1)));

    [InlineArray(4)]
    private struct Words
    {
        private ulong _first;
    }
}
