using System.Runtime.InteropServices;
using Iced.Intel;
using Sharpvisor.Core.Host;
using Sharpvisor.Cpu.Cpuid;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Decoding;

/// <summary>Reads guest instructions with Iced and makes blocks of operations of them.</summary>
/// <remarks>One per vCPU, not thread safe.</remarks>
internal sealed unsafe class BlockDecoder : IDisposable
{
    private const int MaxInstructions = 32;
    private const int MaxBytes = 256;
    private const int LongestInstruction = 15;

    private readonly byte[] _bytes = new byte[MaxBytes + LongestInstruction];
    private readonly BytesReader _reader;
    private readonly Decoder[] _decoders;
    private readonly OpBuilder _builder;
    private readonly Op* _ops;
    private readonly Block* _noBlock = (Block*)NativeMemory.AllocZeroed((nuint)(sizeof(Block) + sizeof(Op)));

    public BlockDecoder(CpuModel model)
    {
        _reader = new BytesReader(_bytes);
        _decoders = [Decoder.Create(16, _reader), Decoder.Create(32, _reader), Decoder.Create(64, _reader)];
        _builder = new OpBuilder(model);
        _ops = (Op*)HostMemory.Reserve(((MaxInstructions + 2) * (ulong)sizeof(Op)) + 4096, hugePages: false);
        FetchOp = _ops + MaxInstructions + 1;
        FetchOp->Segment = 1;
    }

    /// <summary>Stands for "between two instructions": a fault there has RIP as it is.</summary>
    public Op* FetchOp { get; }

    public OpBuilder Builder => _builder;

    public void Dispose()
    {
        HostMemory.Release(_ops, ((MaxInstructions + 2) * (ulong)sizeof(Op)) + 4096);
        NativeMemory.Free(_noBlock);
    }

    /// <summary>Whether no instruction ends within 15 bytes: #GP. One that ends there and is undefined for another reason, such as a LOCK, is #UD.</summary>
    private bool IsTooLong(int start, int bitness)
    {
        var decoder = Decoder.Create(bitness, new ByteArrayCodeReader(_bytes, start, LongestInstruction), DecoderOptions.NoInvalidCheck);
        decoder.Decode(out var instruction);
        return instruction.IsInvalid;
    }

    /// <summary>A block that does nothing but leave, as a dropped one does.</summary>
    public Block* NoBlock(nint staleExit)
    {
        var op = (Op*)(_noBlock + 1);
        op->Fn = staleExit;
        *_noBlock = new Block { Stale = true, Ops = op };
        return _noBlock;
    }

    /// <summary>
    /// Makes the block at a place; raises #PF or #GP when its first instruction can't be fetched. Null: the bytes changed
    /// while they were read.
    /// </summary>
    public Block* Decode(InterpreterVcpu vcpu, BlockCache cache, ulong rip, ulong linear, ulong physical, uint mode)
    {
        var mark = cache.Used;
        var code = vcpu.HostPointer(physical);
        var inPage = Math.Min(MaxBytes, 4096 - (int)(physical & 0xFFF));
        new ReadOnlySpan<byte>(code, inPage).CopyTo(_bytes);
        var available = inPage;
        var decoder = _decoders[mode & (uint)BlockMode.CodeMask];
        _reader.Set(0, available);
        decoder.IP = rip;
        var limit = (mode & (uint)BlockMode.Single) != 0 ? 1 : MaxInstructions;
        var second = ulong.MaxValue;
        var count = 0;
        var length = 0;
        var ended = false;
        _builder.Begin(cache, rip, mode);
        var guards = vcpu.GuardsOf(physical >> 12);
        while (count < limit && !ended)
        {
            if (length >= inPage || (count > 0 && guards is not null && guards.Contains((int)(physical & 0xFFF) + length)))
                break;
            decoder.Decode(out var instruction);
            var tooLong = false;
            if (instruction.IsInvalid)
            {
                if (decoder.LastError == DecoderError.NoMoreBytes && inPage - length < LongestInstruction)
                {
                    if (count > 0)
                        break; // a block of its own

                    // The only instruction runs over the end of the page.
                    second = vcpu.TranslateFetch(vcpu.NextPage(linear));
                    new ReadOnlySpan<byte>(vcpu.HostPointer(second), LongestInstruction).CopyTo(_bytes.AsSpan(inPage));
                    available = inPage + LongestInstruction;
                    _reader.Set(0, available);
                    decoder.IP = rip;
                    decoder.Decode(out instruction);
                    if (!instruction.IsInvalid && instruction.Length <= inPage)
                        second = ulong.MaxValue;
                }

                tooLong = instruction.IsInvalid && _reader.Position - length >= LongestInstruction && IsTooLong(length, decoder.Bitness);
            }

            // In 64-bit mode these prefixes do nothing: RSP and RBP keep their #SS, the others their #GP.
            if (decoder.Bitness == 64 && instruction.SegmentPrefix is Register.ES or Register.CS or Register.SS or Register.DS)
                instruction.SegmentPrefix = Register.None;
            ended = _builder.Build(_ops + count, in instruction, length, tooLong);
            length += instruction.Length;
            count++;
        }

        _builder.End(_ops + count, length);
        var block = (Block*)cache.Allocate(sizeof(Block));
        *block = new Block
        {
            Physical = physical,
            SecondPage = second == ulong.MaxValue ? ulong.MaxValue : second & ~0xFFFUL,
            Mode = mode,
            Count = (ushort)count,
            Length = (ushort)length,
            Ops = (Op*)cache.Allocate((count + 1) * sizeof(Op)),
        };
        Buffer.MemoryCopy(_ops, block->Ops, (count + 1) * sizeof(Op), (count + 1) * sizeof(Op));

        // From here on a store to these bytes is noticed; one that came before has to be seen now.
        var coherence = vcpu.Coherence;
        var lines = BlockCache.Lines(block, physical >> 12);
        var secondLines = second == ulong.MaxValue ? 0 : BlockCache.Lines(block, second >> 12);
        coherence.MarkCode(vcpu, physical, lines);
        if (second != ulong.MaxValue)
            coherence.MarkCode(vcpu, second, secondLines);

        // While it waited there, this vCPU may have served the request of a store that cleared the mark again: the
        // block was not there to be dropped, and later stores would find no mark.
        if (!coherence.IsMarked(physical, lines) || (second != ulong.MaxValue && !coherence.IsMarked(second, secondLines)))
        {
            cache.Release(mark);
            return null;
        }

        var first = Math.Min(length, inPage);
        if (!new ReadOnlySpan<byte>(code, first).SequenceEqual(_bytes.AsSpan(0, first)))
        {
            cache.Release(mark);
            return null;
        }

        if (second != ulong.MaxValue && !new ReadOnlySpan<byte>(vcpu.HostPointer(second), length - first).SequenceEqual(_bytes.AsSpan(first, length - first)))
        {
            cache.Release(mark);
            return null;
        }

        return block;
    }

    private sealed class BytesReader(byte[] bytes) : CodeReader
    {
        private int _end;

        public int Position { get; private set; }

        public void Set(int start, int end)
        {
            Position = start;
            _end = end;
        }

        public override int ReadByte() => Position < _end ? bytes[Position++] : -1;
    }
}
