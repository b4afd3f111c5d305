using Iced.Intel;
using Sharpvisor.Cpu.HostCpu;
using Sharpvisor.Cpu.State;
using Xunit.Abstractions;

namespace Sharpvisor.Cpu.Tests.HostCpu;

/// <summary>
/// Every opcode of every legacy and VEX map, with random operands and data, through its thunk and through a frame that
/// loads all registers: everything visible must be equal.
/// </summary>
public unsafe class ThunkOracleTests(ITestOutputHelper output)
{
    private const ulong ArithmeticFlags = 0x8D5;
    private static readonly byte[] s_prefixes = [0, 0x66, 0xF2, 0xF3];

    [Theory]
    [InlineData(64)]
    [InlineData(32)]
    [InlineData(16)]
    public void Legacy_opcodes_do_what_the_processor_does(int bitness)
    {
        var random = new Random(bitness);
        var run = new Run(random, bitness);
        foreach (var prefix in s_prefixes)
        {
            for (var map = 0; map < 4; map++)
            {
                for (var opcode = 0; opcode < 256; opcode++)
                {
                    for (var variant = 0; variant < 16; variant++)
                    {
                        var bytes = new List<byte>();
                        if (prefix != 0)
                            bytes.Add(prefix);
                        if (bitness == 64 && random.Next(4) != 0)
                            bytes.Add((byte)(0x40 | random.Next(16)));
                        bytes.AddRange(map switch
                        {
                            0 => [(byte)opcode],
                            1 => [0x0F, (byte)opcode],
                            2 => [0x0F, 0x38, (byte)opcode],
                            _ => (byte[])[0x0F, 0x3A, (byte)opcode],
                        });
                        run.Try(bytes, memory: (variant & 1) == 0, variant >> 1);
                    }
                }
            }
        }

        run.Finish(output, bitness == 64 ? 700 : 600);
    }

    [Theory]
    [InlineData(64)]
    [InlineData(32)]
    public void Vex_opcodes_do_what_the_processor_does(int bitness)
    {
        var random = new Random(1000 + bitness);
        var run = new Run(random, bitness);
        for (var map = 1; map <= 3; map++)
        {
            for (var opcode = 0; opcode < 256; opcode++)
            {
                for (var form = 0; form < 16; form++)
                {
                    for (var variant = 0; variant < 16; variant++)
                    {
                        // C4, R X B mmmmm, W vvvv L pp
                        var vvvv = random.Next(3) == 0 ? 15 : random.Next(16);
                        if (bitness == 32)
                            vvvv |= 8;
                        List<byte> bytes =
                        [
                            0xC4, (byte)((bitness == 32 ? 0xE0 : random.Next(8) << 5) | map),
                            (byte)((form & 8) << 4 | vvvv << 3 | form & 7), (byte)opcode,
                        ];
                        run.Try(bytes, memory: (variant & 1) == 0, variant >> 1);
                    }
                }
            }
        }

        run.Finish(output, 500);
    }

    private sealed class Run(Random random, int bitness)
    {
        private readonly HashSet<Code> _covered = [];
        private readonly List<string> _differences = [];
        private int _runs;

        public void Try(List<byte> bytes, bool memory, int reg)
        {
            // mod 3: a register; mod 0 with an rm that names a plain base register: memory.
            int[] plain = bitness == 16 ? [4, 5, 7] : [0, 1, 2, 3, 6, 7];
            bytes.Add((byte)(reg << 3 | (memory ? plain[random.Next(plain.Length)] : 0xC0 | random.Next(8))));
            for (var i = 0; i < 8; i++)
                bytes.Add((byte)random.Next(256));
            var decoder = Decoder.Create(bitness, new ByteArrayCodeReader([.. bytes]));
            var instruction = decoder.Decode();
            if (instruction.IsInvalid || NamesStackPointer(instruction))
                return;
            if (HostThunks.TryCreate(instruction, bitness) is not { IsSpecial: false } thunk)
                return;
            if (instruction.Mnemonic is Mnemonic.Vzeroupper or Mnemonic.Vzeroall)
                return; // their own tests
            if (instruction.Code == Code.Insertq_xmm_xmm_imm8_imm8 && (instruction.Immediate8 & 63) + (instruction.Immediate8_2nd & 63) > 64)
                return; // undefined
            Compare(instruction, thunk);
        }

        public void Finish(ITestOutputHelper output, int atLeast)
        {
            output.WriteLine($"{_runs} instructions of {_covered.Count} forms");
            Assert.True(_differences.Count == 0, $"{_differences.Count} differences:\n" + string.Join('\n', _differences.Take(40)));
            Assert.True(_covered.Count >= atLeast, $"only {_covered.Count} forms were executed");
        }

        private static bool NamesStackPointer(in Instruction instruction)
        {
            for (var i = 0; i < instruction.OpCount; i++)
            {
                if (instruction.GetOpKind(i) == OpKind.Register && instruction.GetOpRegister(i).GetFullRegister() == Register.RSP)
                    return true;
            }

            return false;
        }

        private void Compare(Instruction instruction, HostThunk thunk)
        {
            NativeContext expected = default;
            Fill(new Span<ulong>(expected.Gpr, 16));
            Fill(new Span<ulong>(expected.Ymm, 64));
            Fill(new Span<ulong>(expected.Memory, 8));
            FillX87(expected.X87);
            expected.Flags = (ulong)random.Next() & ArithmeticFlags | 2;
            expected.Mxcsr = 0x1F80u | (uint)random.Next(4) << 13 | (uint)random.Next(2) << 15 | (uint)random.Next(2) << 6;
            var before = expected;

            CpuState state = default;
            for (var i = 0; i < 16; i++)
                state.Gpr[i] = expected.Gpr[i];
            new ReadOnlySpan<ulong>(expected.Ymm, 64).CopyTo(new Span<ulong>(&state.Ymm, 64));
            state.Mxcsr = expected.Mxcsr;
            new ReadOnlySpan<byte>(expected.X87, 512).CopyTo(state.X87);
            var area = stackalloc byte[64 + 32];
            var memory = (byte*)(((nuint)area + 31) & ~(nuint)31);
            new ReadOnlySpan<byte>(expected.Memory, 64).CopyTo(new Span<byte>(memory, 64));

            var name = $"{instruction.Code}: {instruction}";
            if (!NativeFrame.Execute(instruction, &expected))
                return;
            var flags = before.Flags & ~2ul;
            if (thunk.NeedsX87)
                HostX87.Load(&state);
            var result = thunk.Run(&state, memory, ref flags);
            if (thunk.NeedsX87)
            {
                HostX87.Save(&state);
                CompareX87(expected.X87, (byte*)&state.X87);
            }

            _runs++;
            _covered.Add(instruction.Code);
            if (result != ThunkResult.Done && !(result == ThunkResult.NotStored && new ReadOnlySpan<ulong>(before.Memory, 8).SequenceEqual(new(expected.Memory, 8))))
                Note("result", 0, (ulong)result);
            for (var i = 0; i < 16; i++)
            {
                if (state.Gpr[i] != expected.Gpr[i])
                    Note("gpr " + i, expected.Gpr[i], state.Gpr[i]);
            }

            for (var i = 0; i < 64; i++)
            {
                if (((ulong*)&state.Ymm)[i] != expected.Ymm[i])
                    Note($"ymm {i / 4}.{i % 4}", expected.Ymm[i], ((ulong*)&state.Ymm)[i]);
            }

            for (var i = 0; i < 64; i++)
            {
                if (memory[i] != expected.Memory[i])
                {
                    Note("memory " + i, expected.Memory[i], memory[i]);
                    break;
                }
            }

            if ((expected.Flags & ArithmeticFlags) != (flags & ArithmeticFlags))
                Note("flags", expected.Flags & ArithmeticFlags, flags & ArithmeticFlags);
            if (state.Mxcsr != expected.Mxcsr)
                Note("mxcsr", expected.Mxcsr, state.Mxcsr);

            void CompareX87(byte* right, byte* wrong)
            {
                if (((ushort*)right)[0] != ((ushort*)wrong)[0])
                    Note("fcw", ((ushort*)right)[0], ((ushort*)wrong)[0]);
                if (((ushort*)right)[1] != ((ushort*)wrong)[1])
                    Note("fsw", ((ushort*)right)[1], ((ushort*)wrong)[1]);
                if (right[4] != wrong[4])
                    Note("ftw", right[4], wrong[4]);
                for (var i = 0; i < 8; i++)
                {
                    var r = right + 32 + (16 * i);
                    var w = wrong + 32 + (16 * i);
                    if (*(ulong*)r != *(ulong*)w || *(ushort*)(r + 8) != *(ushort*)(w + 8))
                        Note($"st{i} {*(ushort*)(w + 8):x}:", *(ulong*)r, *(ulong*)w);
                }
            }

            void Note(string what, ulong right, ulong wrong) => _differences.Add($"{name}: {what} is {wrong:x}, not {right:x}");
        }

        /// <summary>Registers of every kind; a quarter of the control words unmask something, none of it pending.</summary>
        private void FillX87(byte* image)
        {
            var control = (ushort)(random.Next(0x2000) & 0x1F00 | 0x40 | (random.Next(4) == 0 ? random.Next(64) : 0x3F));
            var pendingFree = control & 0x3F;
            ((ushort*)image)[0] = control;
            ((ushort*)image)[1] = (ushort)(random.Next(0x8000) & 0x7F00 | random.Next(64) & pendingFree);
            image[4] = (byte)(random.Next(3) == 0 ? random.Next(256) : 0xFF);
            *(uint*)(image + 24) = 0x1F80;
            for (var i = 0; i < 8; i++)
            {
                var register = image + 32 + (16 * i);
                var mantissa = (ulong)random.NextInt64(long.MinValue, long.MaxValue);
                (*(ulong*)register, *(ushort*)(register + 8)) = random.Next(9) switch
                {
                    0 => (0UL, (ushort)0),
                    1 => (mantissa >> 1, (ushort)0), // denormal
                    2 => (1UL << 63, (ushort)0x7FFF), // infinity
                    3 => (mantissa | 1UL << 63, (ushort)0xFFFF), // a NaN of either kind
                    4 => (mantissa, (ushort)random.Next(0x10000)), // anything, unsupported formats too
                    5 => (mantissa | 1UL << 63, (ushort)(1 + random.Next(3))), // nearly denormal
                    6 => ((ulong)random.Next(1, 100) << 57 | 1UL << 63, (ushort)(0x3FFF + random.Next(8))), // a small number
                    _ => (mantissa | 1UL << 63, (ushort)(0x3FFF - 40 + random.Next(80) | random.Next(2) << 15)),
                };
            }
        }

        private void Fill(Span<ulong> values)
        {
            foreach (ref var value in values)
            {
                value = random.Next(8) switch
                {
                    0 => BitConverter.DoubleToUInt64Bits(random.NextDouble() * 1000),
                    1 => BitConverter.SingleToUInt32Bits((float)random.NextDouble()) | (ulong)BitConverter.SingleToUInt32Bits(-3e38f) << 32,
                    2 => 0x7FF4_0000_0000_0001, // signalling NaN
                    3 => 0x0000_0000_0000_1234, // denormal
                    4 => 0x7FA0_0001_0000_0001, // signalling NaN and denormal singles
                    5 => (ulong)random.Next(256),
                    _ => (ulong)random.NextInt64(long.MinValue, long.MaxValue),
                };
            }
        }
    }
}
