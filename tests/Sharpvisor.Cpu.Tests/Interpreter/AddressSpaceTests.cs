using Iced.Intel;
using Sharpvisor.Cpu.Paging;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>
/// Random switches between address spaces with PCIDs, random changes of their page tables with one of the invalidations
/// that a change needs, and loads, stores and calls in between, against a model that has no TLB.
/// </summary>
public sealed class AddressSpaceTests
{
    private const ulong Window = 0x80_0000_0000, Keep = 1UL << 63;
    private const int Pages = 8, Frames = 32;
    private const ulong FirstFrame = 0x400000, TablesOfSpaces = 0x600000;
    private const int CodeOffset = 0x800, ValueInCode = CodeOffset + 2;

    [Theory]
    [InlineData(2)]
    [InlineData(4)]
    [InlineData(12)] // more than are kept
    public void What_is_seen_is_what_the_tables_say(int spaces)
    {
        for (var seed = 0; seed < 12; seed++)
        {
            using var m = new M();
            new Run(m, spaces, (seed * 100) + spaces).Execute();
        }
    }

    [Fact]
    public void Entries_come_back_with_their_space()
    {
        using var m = new M();
        var run = new Run(m, 2, 1);
        m.Program(a =>
        {
            for (var i = 0; i < 50; i++)
            {
                a.mov(rax, run.Cr3(i & 1) | Keep);
                a.mov(cr3, rax);
                for (var page = 0; page < Pages; page++)
                    a.add(ecx, __dword_ptr[rbx + (page * 4096)]);
            }
        });
        run.Enter();
        m.RunToHalt(budget: 1_000_000);
        Assert.Contains("entries restored", m.Cpu.DescribeEngine(), StringComparison.Ordinal);
        var restored = long.Parse(System.Text.RegularExpressions.Regex.Match(m.Cpu.DescribeEngine(), @"(\d+) entries restored").Groups[1].Value, System.Globalization.CultureInfo.InvariantCulture);
        Assert.InRange(restored, 48 * Pages, 50 * Pages + 50);
    }

    [Fact]
    public void A_page_that_got_code_meanwhile_comes_back_without_its_free_stores()
    {
        using var m = new M();
        var run = new Run(m, 2, 1);
        for (var space = 0; space < 2; space++)
            run.Place(space, page: 3, frame: 7);
        m.Program(a =>
        {
            a.lea(rdi, __[rbx + (3 << 12) + CodeOffset]);
            for (var i = 1; i <= 3; i++)
            {
                a.mov(__dword_ptr[rbx + (3 << 12) + ValueInCode], i);
                a.mov(rax, run.Cr3(1) | Keep);
                a.mov(cr3, rax);
                a.call(rdi);
                a.mov(rax, run.Cr3(0) | Keep);
                a.mov(cr3, rax);
                a.mov(__dword_ptr[rbx + (3 << 12) + ValueInCode], 100 * i);
                a.call(rdi);
            }
        });
        run.Enter();
        m.RunToHalt();
        Assert.Equal(606UL, m.Rcx);
    }

    private sealed class Run
    {
        private readonly M _m;
        private readonly int _spaces;
        private readonly Random _random;
        private readonly int[,] _frameOf;
        private readonly bool[] _mustFlush;
        private readonly uint[] _value = new uint[Frames];
        private readonly uint[] _inCode = new uint[Frames];
        private int _current;
        private uint _sum;

        public Run(M m, int spaces, int seed)
        {
            (_m, _spaces, _random) = (m, spaces, new Random(seed));
            _frameOf = new int[spaces, Pages];
            _mustFlush = new bool[spaces];
            for (var frame = 0; frame < Frames; frame++)
            {
                _value[frame] = (uint)_random.Next();
                _inCode[frame] = (uint)_random.Next();
                m.Write(Frame(frame), _value[frame]);
                m.Write(Frame(frame) + CodeOffset, 0x81, 0xC1); // add ecx, imm32; ret
                m.Write(Frame(frame) + ValueInCode, _inCode[frame]);
                m.Write(Frame(frame) + ValueInCode + 4, (byte)0xC3);
            }

            var low = m.Read64(m.Root);
            for (var space = 0; space < spaces; space++)
            {
                var tables = TablesOfSpaces + ((ulong)space << 14);
                m.Write(tables, low);
                m.Write(tables + 8, (tables + 0x1000) | 7);
                m.Write(tables + 0x1000, (tables + 0x2000) | 7);
                m.Write(tables + 0x2000, (tables + 0x3000) | 7);
                for (var page = 0; page < Pages; page++)
                    Place(space, page, _random.Next(Frames));
            }

            // Descriptors for INVPCID, one for each page of each space.
            for (var space = 0; space < spaces; space++)
            {
                for (var page = 0; page < Pages; page++)
                {
                    m.Write(Descriptor(space, page), Pcid(space));
                    m.Write(Descriptor(space, page) + 8, Window + ((ulong)page << 12));
                }
            }
        }

        public ulong Cr3(int space) => (TablesOfSpaces + ((ulong)space << 14)) | Pcid(space);

        public void Enter()
        {
            _m.State.Cr4 |= ControlRegisters.PGE | ControlRegisters.PCIDE;
            _m.State.Cr3 = Cr3(0);
            _m.Rbx = Window;
        }

        public void Place(int space, int page, int frame)
        {
            _frameOf[space, page] = frame;
            _m.Write(Pte(space, page), EntryOf(frame));
        }

        public void Execute()
        {
            _m.Program(a =>
            {
                for (var i = 0; i < 400; i++)
                    Step(a);
            });
            Enter();
            _m.RunToHalt(budget: 1_000_000);
            Assert.Equal(_sum, (uint)_m.Rcx);
            for (var frame = 0; frame < Frames; frame++)
            {
                Assert.Equal(_value[frame], _m.Read32(Frame(frame)));
                Assert.Equal(_inCode[frame], _m.Read32(Frame(frame) + ValueInCode));
            }
        }

        private static ulong Frame(int frame) => FirstFrame + ((ulong)frame << 12);

        private static ulong EntryOf(int frame) => Frame(frame) | 7;

        private static ulong Pcid(int space) => (ulong)(space * 5) + 1;

        private static ulong Pte(int space, int page) => TablesOfSpaces + ((ulong)space << 14) + 0x3000 + ((ulong)page * 8);

        private static ulong Descriptor(int space, int page) => M.Data + (ulong)(((space * Pages) + page) * 16);

        private void Step(Assembler a)
        {
            var page = _random.Next(Pages);
            var at = page << 12;
            ref var frame = ref _frameOf[_current, page];
            switch (_random.Next(8))
            {
                case 0 or 1:
                    a.add(ecx, __dword_ptr[rbx + at]);
                    _sum += _value[frame];
                    break;
                case 2:
                    a.mov(eax, (int)(_value[frame] = (uint)_random.Next()));
                    a.mov(__dword_ptr[rbx + at], eax);
                    break;
                case 3:
                    a.lea(rax, __[rbx + at + CodeOffset]);
                    a.call(rax);
                    _sum += _inCode[frame];
                    break;
                case 4:
                    a.mov(eax, (int)(_inCode[frame] = (uint)_random.Next()));
                    a.mov(__dword_ptr[rbx + at + ValueInCode], eax);
                    break;
                case 5:
                    Remap(a, _random.Next(_spaces), page);
                    break;
                default:
                    _current = _random.Next(_spaces);
                    Switch(a, _mustFlush[_current] || _random.Next(8) == 0);
                    break;
            }
        }

        private void Switch(Assembler a, bool flush)
        {
            a.mov(rax, Cr3(_current) | (flush ? 0 : Keep));
            a.mov(cr3, rax);
            _mustFlush[_current] = false;
        }

        private void Remap(Assembler a, int space, int page)
        {
            var frame = _frameOf[space, page] = _random.Next(Frames);
            a.mov(rdi, Pte(space, page));
            a.mov(rax, EntryOf(frame));
            a.mov(__qword_ptr[rdi], rax);
            switch (_random.Next(6))
            {
                case 0 when space == _current:
                    a.invlpg(__[rbx + (page << 12)]);
                    break;
                case 1 when space == _current:
                    Switch(a, flush: true);
                    break;
                case 2 or 3 when space != _current:
                    _mustFlush[space] = true;
                    break;
                case var type:
                    a.mov(eax, type & 3);
                    a.mov(rbp, Descriptor(space, page));
                    a.invpcid(rax, __xmmword_ptr[rbp]);
                    break;
            }
        }
    }
}
