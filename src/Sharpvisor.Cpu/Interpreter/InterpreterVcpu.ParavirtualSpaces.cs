using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>
/// What a processor in paravirtual mode remembers of address spaces. Every change of a page table goes through the
/// hypervisor, which counts them (<see cref="IParavirtualDomain.TableGeneration"/>). So translations outlive a switch to
/// another root, as with a PCID, and a flush does something only if there was a change: what a guest can see is the same.
/// </summary>
/// <remarks>
/// The TLB's entries of the lower half belong to a pair of roots, that of the kernel and that of its programs, and are set
/// aside together. Those of the upper half are every kernel root's as long as their top entries are the same.
/// </remarks>
public unsafe partial class InterpreterVcpu
{
    /// <summary>The first entry of a top table for addresses of the upper half, which all kernel roots of Linux share.</summary>
    private const int UpperHalf = 256;

    private const int MaximumKnownSpaces = 64;

    /// <summary>By frame of the kernel's root: the generation of what the TLB has set aside, and the root of its programs.</summary>
    private readonly Dictionary<ulong, (long Generation, ulong UserRoot)> _asideSpaces = [];

    /// <summary>By frame of the programs' root: the generations of the look-ups of its code.</summary>
    private readonly Dictionary<ulong, (long Code, long Roots)> _codeSpaces = [];

    /// <summary>No translation in the TLB is older: of the upper half; of the lower one; of remembered look-ups of code.</summary>
    private long _flushedGeneration, _spaceGeneration, _flushedCodeGeneration;

    /// <summary>Whose the programs' entries in the TLB are; 0: there are none.</summary>
    private ulong _userEntriesOf;

    /// <summary>The epochs of flat code of kernel and programs, and the generation that they are of.</summary>
    private (uint Generation, ulong Epoch) _kernelEpoch, _userEpoch;

    private void SwitchKernelRoot(ulong root)
    {
        var old = _c->Arch.Cr3;
        if (root == old)
        {
            ForgetTranslations(null);
            return;
        }

        var isShared = SharesUpperHalf(old, root);
        _c->Arch.Cr3 = root;
        if (!isShared)
        {
            ForgetAll();
            return;
        }

        var generation = _domain!.TableGeneration;
        var isClean = _spaceGeneration == generation;
        if (_asideSpaces.Count > MaximumKnownSpaces)
            _asideSpaces.Clear();
        if (isClean)
            _asideSpaces[old] = (generation, _userEntriesOf);
        else
            _asideSpaces.Remove(old);
        var keeps = _asideSpaces.TryGetValue(root, out var aside) && aside.Generation == generation;
        _tlb.SwitchSpace(isClean ? SpaceOf(old) : -1, SpaceOf(root), keeps, _memory);
        _userEntriesOf = keeps ? aside.UserRoot : 0;
        _spaceGeneration = generation;
        if (_kernelIsNotGlobal)
            NewUserEpoch(KernelSpace);
    }

    private void SwitchUserRoot(ulong root)
    {
        _userRoot = root;
        if (root == 0)
            return;
        if (_userEntriesOf != root && _userEntriesOf != 0)
            _tlb.SwitchSpace(-1, SpaceOf(_c->Arch.Cr3), keep: false, _memory);
        _userEntriesOf = root;
        _userEpoch = default;
        var generation = (_domain!.CodeGeneration, _domain.RootGeneration(root));
        if (_codeSpaces.TryGetValue(root, out var known) && known == generation)
            return;
        if (_codeSpaces.Count > MaximumKnownSpaces)
            _codeSpaces.Clear();
        _codeSpaces[root] = generation;
        NewUserEpoch(UserSpace);
    }

    /// <summary>A flush that the domain has asked for: of one page, or (null) all.</summary>
    private void ForgetTranslations(ulong? linear)
    {
        var generation = _domain!.TableGeneration;
        var codeGeneration = _domain.CodeGeneration;
        if (generation == _flushedGeneration)
            return; // nothing has changed since the last one
        if (codeGeneration != _flushedCodeGeneration)
        {
            // Code is looked up anew wherever it is: this is rare enough.
            if (linear is null)
            {
                ForgetAll();
                return;
            }

            FlushTlbPage(linear.Value);
        }
        else if (linear is { } page)
        {
            _tlb.FlushPage(page);
        }
        else
        {
            _tlb.FlushAll();
            (_flushedGeneration, _spaceGeneration) = (generation, generation);
        }
    }

    private void ForgetAll()
    {
        (_flushedGeneration, _flushedCodeGeneration) = (_domain!.TableGeneration, _domain.CodeGeneration);
        _spaceGeneration = _flushedGeneration;
        _asideSpaces.Clear();
        _codeSpaces.Clear();
        FlushTlb(global: true);
    }

    private static int SpaceOf(ulong root) => 1 + (int)(root >> 12);

    private bool SharesUpperHalf(ulong root, ulong other)
    {
        var a = _memory.TryGetPointer(root & ~0xFFFUL);
        var b = _memory.TryGetPointer(other & ~0xFFFUL);
        return a != null && b != null
            && new ReadOnlySpan<ulong>(a + (UpperHalf * 8), 512 - UpperHalf).SequenceEqual(new ReadOnlySpan<ulong>(b + (UpperHalf * 8), 512 - UpperHalf));
    }
}
