using Iced.Intel;
using Sharpvisor.Cpu.Decoding;

namespace Sharpvisor.Cpu.Translator;

/// <summary>What a translation needs to be brought up to date when only immediates of its code change.</summary>
internal sealed unsafe partial class BlockTranslator
{
    private readonly List<(ImmediateField Field, int Item)> _fields = [];

    /// <summary>A bit for each instruction whose immediate can't be changed: other code depends on it, or has it in another way.</summary>
    private ulong _pinned;

    /// <summary>
    /// A host instruction was just emitted for an item, or one that makes its flags again: its immediate, which both
    /// encodings have at their end, may be one that can be changed. Nothing else of the block may depend on the value,
    /// and every copy of it has to be told of here.
    /// </summary>
    private void NoteImmediate(CodeEmitter e, int index, in Instruction emitted)
    {
        ref readonly var item = ref _items[index];
        var size = ImmediateSize(in item.Instruction);
        if (size == 0 || ImmediateSize(in emitted) == 0)
            return;
        var offset = item.Next - size;
        var host = e.Address - (ulong)size;
        if (!new ReadOnlySpan<byte>(e.Writable(host), size).SequenceEqual(new ReadOnlySpan<byte>(_page + offset, size)))
        {
            _pinned |= 1UL << index;
            return;
        }

        var field = new ImmediateField
        {
            Offset = (ushort)(offset - (int)_block.PageOffset),
            Size = (ushort)size,
            HostOffset = (uint)(host - _block.EntryWithFlags),
        };
        _fields.Add((field, index));
    }

    /// <summary>Bytes of an immediate that only the result depends on; else 0.</summary>
    private static int ImmediateSize(in Instruction ins)
    {
        switch (ins.Mnemonic)
        {
            case Mnemonic.Mov or Mnemonic.Add or Mnemonic.Or or Mnemonic.Adc or Mnemonic.Sbb or Mnemonic.And or Mnemonic.Sub
                or Mnemonic.Xor or Mnemonic.Cmp or Mnemonic.Test or Mnemonic.Imul:
                break;
            default:
                return 0;
        }

        if (ins.Op0Kind == OpKind.Register && ins.Op0Register.GetFullRegister() == Register.RSP)
            return 0; // groups of accesses to the stack are formed by it
        return ins.GetOpKind(ins.OpCount - 1) switch
        {
            OpKind.Immediate8 or OpKind.Immediate8to16 or OpKind.Immediate8to32 or OpKind.Immediate8to64 => 1,
            OpKind.Immediate16 => 2,
            OpKind.Immediate32 or OpKind.Immediate32to64 => 4,
            OpKind.Immediate64 => 8,
            _ => 0,
        };
    }

    /// <summary>Keeps the block's bytes and immediates with it.</summary>
    private void RememberBytes()
    {
        _block.Bytes = (byte*)_arena.Allocate(_block.Length);
        Buffer.MemoryCopy(_page + _block.PageOffset, _block.Bytes, _block.Length, _block.Length);
        _block.Fields = (ImmediateField*)_arena.Allocate(_fields.Count * sizeof(ImmediateField));
        foreach (var (field, index) in _fields)
        {
            if ((_pinned >> index & 1) == 0)
                _block.Fields[_block.FieldCount++] = field;
        }
    }
}
