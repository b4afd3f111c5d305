using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>
/// How long remembered look-ups of code are good for. They are made under an epoch: a number for each combination of
/// code segment and address space. The kernel is a space of its own, because its pages are global; so is each PCID.
/// </summary>
/// <remarks>
/// Invalidations that concern no page that code was fetched from since leave all epochs as they are. Which pages those
/// are is kept in bitmaps by a hash, which may say yes too often, never no.
/// </remarks>
public unsafe partial class InterpreterVcpu
{
    private const int MaxCodeSegments = 1024;
    private const int KernelSpace = 0;

    private readonly Dictionary<(ulong Base, uint Limit, int Space), ulong> _epochs = [];
    private readonly Dictionary<int, ulong> _spaceRoots = [];
    private readonly PageFilter _fetched = new();
    private readonly PageFilter _fetchedLarge = new();
    private (ulong Base, uint Limit, int Space) _codeSegment = (0, 0, -1);
    private ulong _epoch;
    private ulong _lastEpoch;

    /// <summary>The kernel has executed code of pages that are not global.</summary>
    private bool _kernelIsNotGlobal;

    /// <summary>Changes whenever <see cref="LookupKeyOf"/> may say something else than before.</summary>
    private protected uint EpochGeneration { get; private set; }

    /// <summary>The user's space: 1 + PCID.</summary>
    private int UserSpace => IsParavirtual ? SpaceOf(_userRoot) : 1 + ((_c->Arch.Cr4 & ControlRegisters.PCIDE) != 0 ? (int)(_c->Arch.Cr3 & 0xFFF) : 0);

    private int CodeSpace => IsUserCode ? UserSpace : KernelSpace;

    /// <summary>Ring 3, and no kernel's.</summary>
    private bool IsUserCode => _c->Cpl == 3 && !_isParavirtualKernel;

    /// <summary>Linear addresses may mean other code now: all remembered look-ups are void.</summary>
    internal void NewEpoch()
    {
        _fetched.Clear();
        _fetchedLarge.Clear();
        _spaceRoots.Clear();
        _kernelIsNotGlobal = false;
        _epochs.Clear();
        _epochs.Add(_codeSegment, _epoch = ++_lastEpoch);
        EpochGeneration++;
        UpdateLookupKey();
    }

    /// <summary>The user's translations have changed, in one space or (-1) in all; the kernel's if they are not global.</summary>
    private void NewUserEpoch(int space)
    {
        foreach (var known in _epochs.Keys)
        {
            if (known.Space == KernelSpace ? _kernelIsNotGlobal : space < 0 || known.Space == space)
                _epochs.Remove(known);
        }

        _kernelIsNotGlobal = false;
        EpochGeneration++;
        RefreshEpoch();
    }

    /// <summary>CR3 has another value.</summary>
    /// <param name="from">The space before, or -1: nothing of it can be kept, for there are no PCIDs.</param>
    /// <param name="keep">Bit 63 was set: what is remembered of this PCID still holds.</param>
    private void SwitchSpace(int from, bool keep)
    {
        var space = UserSpace;
        _tlb.SwitchSpace(from, space, keep, _memory);
        var root = _c->Arch.Cr3 & ~0xFFFUL;
        if (keep && _spaceRoots.TryGetValue(space, out var known) && known == root)
        {
            if (_kernelIsNotGlobal)
                NewUserEpoch(KernelSpace);
        }
        else
        {
            _spaceRoots[space] = root;
            NewUserEpoch(space);
        }

        EpochGeneration++;
        SetCodeSegment(_codeSegment.Base, _codeSegment.Limit);
        UpdateLookupKey();
    }

    /// <summary>What <see cref="CpuContext.LookupKey"/> would be in 64-bit mode at a privilege level.</summary>
    private protected ulong LookupKeyOf(byte cpl)
    {
        var segment = (0UL, uint.MaxValue, cpl == 3 ? UserSpace : KernelSpace);
        if (!_epochs.TryGetValue(segment, out var epoch))
            _epochs.Add(segment, epoch = ++_lastEpoch);
        return (epoch << 16) | ((ulong)cpl << 8) | (uint)BlockMode.Code64;
    }

    /// <summary>Generated code has changed the privilege level, and knew the key that goes with it.</summary>
    private protected void AdoptLookupKey(ulong key)
    {
        _c->Cpl = (byte)(key >> 8);
        _c->LookupKey = key;
        _epoch = key >> 16;
        _codeSegment = (0, uint.MaxValue, CodeSpace);
        UpdateTlbKind();
    }

    /// <summary>A page's translation is gone, and with it what was remembered of code there.</summary>
    private void ForgetCode(ulong linear)
    {
        if (_fetched.MayHave(linear >> 12) || _fetchedLarge.MayHave(linear >> LargeShift))
            NewEpoch();
    }

    private void NoteFetch(ulong linear, in PageWalk walk)
    {
        if (walk.PageShift > 12)
            _fetchedLarge.Add(linear >> LargeShift);
        else
            _fetched.Add(linear >> 12);
        _kernelIsNotGlobal |= !IsUserCode && !walk.Global;
    }

    /// <summary>Look-ups go by RIP, an offset: each base and limit of CS has an epoch of its own.</summary>
    private void SetCodeSegment(ulong codeBase, uint limit)
    {
        var segment = (codeBase, limit, CodeSpace);
        if (segment == _codeSegment)
            return;
        _codeSegment = segment;
        RefreshEpoch();
    }

    private void RefreshEpoch()
    {
        if (_epochs.Count >= MaxCodeSegments)
        {
            _epochs.Clear(); // epochs are never used again: what was remembered under them is void
            EpochGeneration++;
        }

        if (!_epochs.TryGetValue(_codeSegment, out _epoch))
            _epochs.Add(_codeSegment, _epoch = ++_lastEpoch);
        UpdateLookupKey();
    }

    private void UpdateLookupKey() => _c->LookupKey = (_epoch << 16) | ((ulong)_c->Cpl << 8) | _c->Mode;
}
