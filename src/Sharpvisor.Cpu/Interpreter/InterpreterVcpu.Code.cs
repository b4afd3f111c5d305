using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.HostCpu;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <content>Decoded code whose bytes change: requests of other processors and devices, and what is dropped.</content>
public unsafe partial class InterpreterVcpu
{
    /// <summary>Values of <see cref="_flushRequest"/> that are no address of a page.</summary>
    private const ulong NoFlush = 0xDEAD_0000_0000_0001, FlushEverything = 0xDEAD_0000_0000_0002;

    private ulong _flushRequest = NoFlush;

    internal void Post(CodeRequest request)
    {
        if (_disposed)
            return;
        lock (_codeRequests)
        {
            if (_codeRequests.Count < MaximumCodeRequests)
                _codeRequests.Enqueue(request);
            else
                _codeRequestsLost = true;
            _codeRequestCount = _codeRequests.Count;
        }

        Interlocked.Or(ref _c->Pending, (int)PendingEvents.Code);
        Volatile.Write(ref _c->Translator.Attention, 1);
    }

    /// <summary>Asks to forget the translation of a page, or (null) all.</summary>
    internal void PostFlush(ulong? linear)
    {
        if (_disposed)
            return;
        lock (_codeRequests)
            _flushRequest = _flushRequest == NoFlush ? linear ?? FlushEverything : _flushRequest == linear ? linear.Value : FlushEverything;
        Interlocked.Or(ref _c->Pending, (int)PendingEvents.Code);
        Volatile.Write(ref _c->Translator.Attention, 1);
    }

    /// <summary>A read-modify-write to these lines of a page with code is about to happen: look at them again after this block.</summary>
    internal void NoteOwnWrite(ulong page, ulong lines)
    {
        _ownWrites.Add(new CodeRequest(page, lines));
        Interlocked.Or(ref _c->Pending, (int)PendingEvents.Code);
    }

    /// <summary>This vCPU stores to lines of a page with code. Drops what may have changed; says which lines have no code of its own any more.</summary>
    /// <param name="announced">The bytes have not changed yet.</param>
    internal ulong OnStore(ulong page, ulong lines, bool announced)
    {
        // Code that is written over from one end to the other: all of the page at once, so that the rest is plain stores.
        if (IsOverwriting(page))
            lines = ulong.MaxValue;
        else if (!announced)
            return UpdateCode(page, lines);
        DropCode(page, lines);
        return lines;
    }

    /// <summary>Bytes in these lines of a page have changed: the same as <see cref="OnStore"/>.</summary>
    private protected virtual ulong UpdateCode(ulong page, ulong lines)
    {
        DropCode(page, lines);
        return lines;
    }

    /// <summary>Whether code of this page was written at the fourth place since any of it was decoded.</summary>
    private bool IsOverwriting(ulong page)
    {
        if (page != _overwrittenPage)
        {
            _overwrittenPage = page;
            _overwrites = 0;
            _lastOverwrite = ulong.MaxValue;
        }

        if (_storedAt != _lastOverwrite)
            _overwrites++;
        _lastOverwrite = _storedAt;
        return _overwrites >= 4;
    }

    /// <summary>Where a read-modify-write is about to happen.</summary>
    internal void NoteStore(ulong physical) => _storedAt = physical;

    internal void NoteDecoded(ulong page)
    {
        if (page == _overwrittenPage)
            _overwrites = 0;
    }

    internal void ServeCodeRequests()
    {
        // The bit goes first and in any case: a request may be served by the spinning in MarkCode before its sender has
        // set the bit, and a bit without a request would keep the run loop from ever executing again.
        if ((Volatile.Read(ref _c->Pending) & (int)PendingEvents.Code) != 0)
            Interlocked.And(ref _c->Pending, ~(int)PendingEvents.Code);
        foreach (var write in _ownWrites)
            _coherence.OnRmwDone(write.Page, write.Lines);
        _ownWrites.Clear();
        ServeFlush();
        if (_codeRequestCount == 0)
            return;
        lock (_codeRequests)
        {
            while (_codeRequests.TryDequeue(out var request))
            {
                if (_codeRequestsLost)
                    continue;
                if (request == CodeRequest.ForgetAll)
                    _codeRequestsLost = true;
                else if (request.Lines == 0)
                    ProtectPage(request.Page);
                else
                    DropCode(request.Page >> 12, request.Lines);
            }

            if (_codeRequestsLost)
            {
                _codeRequestsLost = false;
                _tlb.FlushAll();
                DropAllCode();
            }

            _codeRequestCount = 0;
        }
    }

    private void ServeFlush()
    {
        if (Volatile.Read(ref _flushRequest) == NoFlush)
            return;
        lock (_codeRequests)
        {
            ForgetTranslations(_flushRequest == FlushEverything ? null : _flushRequest);
            _flushRequest = NoFlush;
        }
    }

    internal virtual void ProtectPage(ulong physicalPage) => _tlb.ProtectPhysicalPage(physicalPage);

    internal virtual void DropCode(ulong page, ulong lines) => _blocks.Drop(page, lines, StaleHandler);

    private protected virtual void DropAllCode() => _blocks.DropAll(StaleHandler);
}
