// A VGA with linear modes: the adapter that QEMU calls "VGA" (-vga std).
// Follows: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem" (VGA function); Bochs' VBE DISPI
// interface, id B0C5h; QEMU's docs/specs/standard-vga (PCI 1234:1111). Video memory keeps the four planes of an address
// side by side and byte, word and double word addressing make no difference, as in QEMU.
// Leaves out: CGA's light pen, interrupt on vertical retrace, the 3C2h monitor sense, big-endian frame buffers,
// vertical counting by two (CR17 bit 2).

using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Display;
using Sharpvisor.Core.Memory;
using Sharpvisor.Core.Time;
using Sharpvisor.Devices.Pci;

namespace Sharpvisor.Devices.Vga;

/// <summary>The PCI function with what the board maps for it: legacy ports, Bochs' ports and the window at A0000h.</summary>
public sealed class StandardVga : PciFunction, IScreen
{
    /// <summary>Where the board maps <see cref="Ports"/>, and how many there are.</summary>
    public const ushort PortBase = 0x3B0;
    public const int PortCount = 0x30;

    /// <summary>Where the board maps <see cref="DisplayPorts"/>, and how many there are.</summary>
    public const ushort DisplayPortBase = BochsDisplay.IndexPort;
    public const int DisplayPortCount = BochsDisplay.PortCount;

    /// <summary>Where the board maps <see cref="Window"/>, and how long it is.</summary>
    public const ulong WindowBase = 0xA0000;
    public const ulong WindowLength = VgaMemory.WindowLength;

    /// <summary>Bytes of video memory.</summary>
    public const int MemorySize = 16 << 20;

    private const int BlankWidth = 720, BlankHeight = 400, VgaMask = 0x3FFFF;

    private readonly GuestMemory _guestMemory;
    private readonly MemoryRegion _memory;
    private readonly Clock _clock;
    private readonly VgaRegisters _registers = new();
    private readonly BochsDisplay _display;
    private readonly VgaPorts _ports;
    private readonly VgaMemory _window;
    private readonly byte[] _rom;
    private MemoryMapping? _mapped;
    private int _width = BlankWidth, _height = BlankHeight;

    /// <param name="rom">The option ROM, vgabios-stdvga.bin; empty: the adapter has none.</param>
    public StandardVga(GuestMemory memory, Clock clock, ReadOnlySpan<byte> rom)
        : base("vga", new PciIdentity(0x1234, 0x1111, 0x030000, 2))
    {
        _guestMemory = memory;
        _clock = clock;
        _rom = rom.ToArray();
        _memory = memory.AddRegion("vga", MemorySize);
        _display = new BochsDisplay(_registers, _memory, OnChanged);
        _ports = new VgaPorts(_registers, _display, clock, OnChanged);
        _window = new VgaMemory(_registers, _display, _memory);
        Config.Define(PciRegister.Status, 2, 0, clearable: 0xF900);
        AddMemoryBar(0, _memory);
        AddMemoryBar(2, VgaRegisterWindow.Length, new VgaRegisterWindow(_ports, _display, Edid.Create(1280, 800)));
        if (!rom.IsEmpty)
        {
            var region = memory.AddRegion("vga.rom", (ulong)rom.Length);
            rom.CopyTo(region.Bytes(0, rom.Length));
            AddRom(region);
        }

        ResetAdapter();
    }

    /// <summary>3B0h to 3DFh.</summary>
    public IBusDevice Ports => _ports;

    /// <summary>1CEh to 1D1h.</summary>
    public IBusDevice DisplayPorts => _display;

    /// <summary>A0000h to BFFFFh.</summary>
    public IBusDevice Window => _window;

    public bool IsTextMode => !_display.IsEnabled && _registers.HasSync && !_registers.IsGraphics;

    public override void Reset()
    {
        base.Reset();
        ResetAdapter();
    }

    public void Render(Framebuffer target)
    {
        if (_display.IsEnabled)
        {
            (_width, _height) = (_display.Width, _display.Height);
            target.Resize(_width, _height);
            if (_display.BitsPerPixel == 4)
                GraphicsRenderer.Render(_registers, _display, Memory, MemorySize - 1, target);
            else
                LinearRenderer.Render(_display, _registers.Dac, Memory, target);
            return;
        }

        if (!_registers.IsDisplaying)
        {
            // A guest that changes the mode takes the picture away meanwhile: it keeps its size.
            target.Resize(_width, _height);
            target.Pixels.Clear();
            return;
        }

        var dots = _registers.IsGraphics ? 8 : _registers.DotsPerCharacter;
        _width = _registers.DisplayedCharacters * dots * (_registers.IsDotClockHalved ? 2 : 1);
        _height = _registers.DisplayedLines;
        target.Resize(_width, _height);
        if (_registers.IsGraphics)
        {
            GraphicsRenderer.Render(_registers, _display, Memory, VgaMask, target);
            return;
        }

        var timing = _ports.CurrentTiming();
        TextRenderer.Render(_registers, _display, Memory, target, timing.IsCursorOn(_clock.NowNs), timing.IsBlinkOn(_clock.NowNs));
    }

    public TextScreen? ReadText() => IsTextMode ? TextRenderer.Read(_registers, _display, Memory) : null;

    /// <summary>Leaves behind what the VGA BIOS would, for a boot without firmware: an empty text screen of 80 by 25.</summary>
    public void SetTextMode()
    {
        ResetAdapter();
        TextModeSetup.Apply(_registers, _memory, _rom);
        OnChanged();
    }

    private ReadOnlySpan<byte> Memory => _memory.Bytes(0, MemorySize);

    private void ResetAdapter()
    {
        _registers.Reset();
        _display.Reset();
        _ports.Reset();
        _window.Reset();
        (_width, _height) = (BlankWidth, BlankHeight);
        OnChanged();
    }

    /// <summary>While the window leads straight to video memory the guest sees it as memory; the CPU engines need no help then.</summary>
    private void OnChanged()
    {
        var (start, length) = VgaMemory.GetRange(_registers.Graphics[VgaRegisters.Miscellaneous]);
        var offset = length == 0x10000 ? _display.BankOffset : 0;
        var gpa = WindowBase + start;
        if (!_window.IsLinear)
            length = 0;
        if (_mapped is null ? length == 0 : _mapped.Start == gpa && _mapped.Length == length && _mapped.ReadOffset == offset)
            return;
        if (_mapped is not null)
            _guestMemory.Unmap(_mapped);
        _mapped = length == 0 ? null : _guestMemory.Map(gpa, length, _memory, offset, _memory, offset);
    }
}
