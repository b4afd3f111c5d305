using Sharpvisor.Core.Memory;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>
/// Keeps decoded code in step with memory across the vCPUs of a machine. Each vCPU has blocks and a TLB of its own,
/// which only its own thread changes; the others send requests that it serves between two blocks.
/// </summary>
/// <remarks>
/// A page from which nobody has decoded may be written by the fast path of any vCPU. Before the first instruction is
/// decoded from it, every vCPU that runs has to give that up and say so: a store that came later would go unseen.
/// After a store to a line with code the blocks are dropped at once on the storing vCPU and between two blocks on the
/// others, which is what x86 promises for cross-modifying code: it takes effect at the next serialising event.
/// </remarks>
internal sealed unsafe class CodeCoherence
{
    private readonly List<InterpreterVcpu> _vcpus = [];
    private readonly GuestMemory _memory;
    private int _protecting;

    public CodeCoherence(GuestMemory memory)
    {
        _memory = memory;
        memory.CodeWritten += OnCodeWritten;
        memory.MapChanged += OnMapChanged;
    }

    /// <summary>
    /// Serialises the rare read-modify-writes through <see cref="CpuContext.Bounce"/>: to a device, or to two pages that
    /// do not follow each other in host memory. These are atomic among themselves only: not against a locked access
    /// that touches a part of the same operand within one page.
    /// </summary>
    public Lock SplitLock { get; } = new();

    public void Add(InterpreterVcpu vcpu)
    {
        lock (_vcpus)
            _vcpus.Add(vcpu);
    }

    /// <summary>Says that <paramref name="vcpu"/> is about to decode from these lines; returns when no store can go unseen.</summary>
    public void MarkCode(InterpreterVcpu vcpu, ulong physical, ulong lines)
    {
        ref var mask = ref _memory.CodeLines(physical);
        if ((Volatile.Read(ref mask) & lines) == lines && Volatile.Read(ref _protecting) == 0)
            return;
        Interlocked.Increment(ref _protecting);
        var before = Interlocked.Or(ref mask, lines);
        vcpu.NoteDecoded(physical >> 12);
        if (before == 0)
        {
            var page = physical & ~0xFFFUL;
            vcpu.ProtectPage(page);
            foreach (var other in _vcpus)
            {
                if (other != vcpu)
                    other.Post(new CodeRequest(page, 0));
            }

            foreach (var other in _vcpus)
            {
                var spin = new SpinWait();
                while (other != vcpu && other.IsInGuest && other.HasCodeRequests)
                {
                    vcpu.ServeCodeRequests();
                    spin.SpinOnce(sleep1Threshold: -1);
                }
            }

            Interlocked.Decrement(ref _protecting);
            return;
        }

        Interlocked.Decrement(ref _protecting);
        var wait = new SpinWait();
        while (Volatile.Read(ref _protecting) != 0)
        {
            vcpu.ServeCodeRequests();
            wait.SpinOnce(sleep1Threshold: -1);
        }
    }

    /// <summary>Has other vCPUs, by a bit each, forget the translation of a page, or (null) all.</summary>
    public void FlushTlbOf(ulong vcpus, ulong? linear)
    {
        foreach (var vcpu in _vcpus)
        {
            if ((vcpus >> vcpu.Index & 1) != 0)
                vcpu.PostFlush(linear);
        }
    }

    /// <summary>Returns when none of these vCPUs goes by what it was to forget. Not with the machine's gate held, which they may wait for.</summary>
    public void WaitForFlushes(InterpreterVcpu vcpu, ulong vcpus)
    {
        Interlocked.MemoryBarrier();
        foreach (var other in _vcpus)
        {
            var spin = new SpinWait();
            while (other != vcpu && (vcpus >> other.Index & 1) != 0 && other.IsInGuest && other.HasCodeRequests)
            {
                vcpu.ServeCodeRequests();
                spin.SpinOnce(sleep1Threshold: -1);
            }
        }
    }

    /// <summary>Whether a store to any of these lines would be noticed.</summary>
    public bool IsMarked(ulong physical, ulong lines) => (Volatile.Read(ref _memory.CodeLines(physical)) & lines) == lines;

    /// <summary>A read-modify-write is about to change RAM.</summary>
    public void OnRmw(InterpreterVcpu vcpu, ulong physical, int size)
    {
        ref var mask = ref _memory.CodeLines(physical);
        if (Volatile.Read(ref mask) == 0)
            return;
        var lines = 1UL << (int)((physical >> 6) & 63) | 1UL << (int)(((physical + (ulong)size - 1) >> 6) & 63);
        if ((mask & lines) != 0)
        {
            vcpu.NoteStore(physical);
            OnStore(physical >> 12, lines, announced: true);
        }

        // Another vCPU may decode these lines, or for the first time, before the write takes place. A page that has
        // code already is not protected anew, so nothing would tell it.
        if (_vcpus.Count > 1)
            vcpu.NoteOwnWrite(physical & ~0xFFFUL, lines);
    }

    /// <summary>The write that <see cref="OnRmw"/> announced has taken place.</summary>
    public void OnRmwDone(ulong page, ulong lines) => _memory.OnCodeWritten(page, lines);

    /// <summary>Other memory is seen at some pages: at once on the vCPU that caused it, between two blocks on the others.</summary>
    private void OnMapChanged(ulong start, ulong length)
    {
        var current = InterpreterVcpu.Current is { } changer && changer.Coherence == this ? changer : null;
        current?.ForgetPages(start >> 12, length >> 12);
        foreach (var vcpu in _vcpus)
        {
            if (vcpu != current)
                vcpu.Post(CodeRequest.ForgetAll);
        }
    }

    private void OnCodeWritten(ulong pageNumber, ulong lines) => OnStore(pageNumber, lines, announced: false);

    private void OnStore(ulong pageNumber, ulong lines, bool announced)
    {
        // The mark stays where the storing vCPU keeps code that it has brought up to date.
        var current = InterpreterVcpu.Current is { } writer && writer.Coherence == this ? writer : null;
        var dropped = current?.OnStore(pageNumber, lines, announced) ?? lines;
        if (dropped != 0)
            Interlocked.And(ref _memory.CodeLines(pageNumber << 12), ~dropped);
        foreach (var vcpu in _vcpus)
        {
            if (vcpu != current)
                vcpu.Post(new CodeRequest(pageNumber << 12, lines | dropped));
        }
    }
}

/// <summary>What one vCPU asks of another: drop blocks in these lines of a page, or, with no lines, protect the page.</summary>
internal readonly record struct CodeRequest(ulong Page, ulong Lines)
{
    /// <summary>Drop all blocks and all of the TLB: other memory is seen somewhere.</summary>
    public static readonly CodeRequest ForgetAll = new(ulong.MaxValue, ulong.MaxValue);
}
