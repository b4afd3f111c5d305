// The keyboard controller of a PC, with nothing attached.
// Follows: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller"; Intel 8242
// data sheet. What is sent to a missing keyboard or mouse times out: the answer 0xFE with the timeout bit.
// Leaves out: keyboard and mouse themselves; scan code translation; passwords; the A20 gate is a bit without effect,
// for A20 is always on.

using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Interrupts;

namespace Sharpvisor.Devices.Ps2;

/// <summary>An 8042 at ports 60h (data) and 64h (status and command); command FEh resets the machine.</summary>
public sealed class I8042 : IResettable
{
    // Status register.
    private const byte OutputFull = 1, SystemFlag = 4, CommandData = 8, Unlocked = 0x10, AuxiliaryFull = 0x20, Timeout = 0x40;

    // Configuration byte.
    private const byte KeyboardInterrupt = 1, AuxiliaryInterrupt = 2, ConfigSystemFlag = 4, KeyboardDisabled = 0x10, AuxiliaryDisabled = 0x20;

    // Output port.
    private const byte NotReset = 1, A20 = 2;

    private const byte Resend = 0xFE;

    private readonly IInterruptLine _irq1, _irq12;
    private readonly IMachineControl _machine;
    private readonly byte[] _ram = new byte[32];
    private byte _status, _output, _outputPort;
    private byte _pendingCommand;

    /// <param name="irq1">Keyboard data in the output buffer.</param>
    /// <param name="irq12">Auxiliary (mouse) data in the output buffer.</param>
    public I8042(IInterruptLine irq1, IInterruptLine irq12, IMachineControl machine)
    {
        _irq1 = irq1;
        _irq12 = irq12;
        _machine = machine;
        DataPort = new BytePorts(_ => ReadData(), (_, value) => WriteData(value));
        CommandPort = new BytePorts(_ => _status, (_, value) => WriteCommand(value));
        Reset();
    }

    /// <summary>Port 60h.</summary>
    public IBusDevice DataPort { get; }

    /// <summary>Port 64h.</summary>
    public IBusDevice CommandPort { get; }

    private byte Config
    {
        get => _ram[0];
        set
        {
            _ram[0] = value;
            _status = (byte)((_status & ~SystemFlag) | (value & ConfigSystemFlag));
            UpdateLines();
        }
    }

    public void Reset()
    {
        Array.Clear(_ram);
        _status = Unlocked;
        _output = 0;
        _pendingCommand = 0;
        _outputPort = NotReset | A20;
        // As firmware leaves it: self-test passed, both interrupts on, no translation needed without a keyboard.
        Config = KeyboardInterrupt | AuxiliaryInterrupt | ConfigSystemFlag;
    }

    private byte ReadData()
    {
        var value = _output;
        _status &= unchecked((byte)~(OutputFull | AuxiliaryFull | Timeout));
        UpdateLines();
        return value;
    }

    private void WriteCommand(byte command)
    {
        _status |= CommandData;
        _pendingCommand = 0;
        switch (command)
        {
            case >= 0x20 and <= 0x3F:
                Put(_ram[command & 0x1F]);
                break;
            case (>= 0x60 and <= 0x7F) or 0xD1 or 0xD2 or 0xD3 or 0xD4:
                _pendingCommand = command; // the parameter follows at the data port
                break;
            case 0xA7:
                Config |= AuxiliaryDisabled;
                break;
            case 0xA8:
                Config &= unchecked((byte)~AuxiliaryDisabled);
                break;
            case 0xA9 or 0xAB: // interface tests: clock and data lines are fine
                Put(0x00);
                break;
            case 0xAA:
                Config |= ConfigSystemFlag;
                Put(0x55);
                break;
            case 0xAD:
                Config |= KeyboardDisabled;
                break;
            case 0xAE:
                Config &= unchecked((byte)~KeyboardDisabled);
                break;
            case 0xC0: // input port: keyboard not inhibited, manufacturing jumper not set
                Put(0xA0);
                break;
            case 0xD0:
                Put((byte)(_outputPort | ((_status & OutputFull) != 0 ? 0x10 : 0)));
                break;
            case 0xDD or 0xDF:
                _outputPort = (byte)((_outputPort & ~A20) | (command & A20));
                break;
            case >= 0xF0:
                if ((command & NotReset) == 0)
                    _machine.RequestReset("i8042");
                break;
        }
    }

    private void WriteData(byte value)
    {
        _status &= unchecked((byte)~CommandData);
        var command = _pendingCommand;
        _pendingCommand = 0;
        switch (command)
        {
            case 0x60:
                Config = value;
                break;
            case > 0x60 and <= 0x7F:
                _ram[command & 0x1F] = value;
                break;
            case 0xD1:
                _outputPort = value;
                if ((value & NotReset) == 0)
                    _machine.RequestReset("i8042");
                break;
            case 0xD2:
                Put(value);
                break;
            case 0xD3:
                Put(value, AuxiliaryFull);
                break;
            case 0xD4:
                Put(Resend, AuxiliaryFull | Timeout);
                break;
            default:
                Config &= unchecked((byte)~KeyboardDisabled); // sending a byte turns the keyboard's clock on
                Put(Resend, Timeout);
                break;
        }
    }

    private void Put(byte value, int status = 0)
    {
        _output = value;
        _status = (byte)((_status & ~(AuxiliaryFull | Timeout)) | OutputFull | status);
        _irq1.Set(false);
        _irq12.Set(false);
        UpdateLines();
    }

    private void UpdateLines()
    {
        var full = (_status & OutputFull) != 0;
        var auxiliary = (_status & AuxiliaryFull) != 0;
        _irq1.Set(full && !auxiliary && (Config & KeyboardInterrupt) != 0);
        _irq12.Set(full && auxiliary && (Config & AuxiliaryInterrupt) != 0);
    }
}
