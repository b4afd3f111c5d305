using Sharpvisor.Core.Input;
using Sharpvisor.Devices.Ps2;
using Sharpvisor.Testing.Guests;
using Sharpvisor.Testing.Interrupts;
using Sharpvisor.Testing.Time;

namespace Sharpvisor.Devices.Tests.Ps2;

/// <summary>Keyboard and mouse through the controller, as drivers talk to them.</summary>
public sealed class Ps2Tests
{
    private readonly ManualClock _clock = new();
    private readonly RecordingLine _irq1 = new(), _irq12 = new();
    private readonly Ps2Keyboard _keyboard = new();
    private readonly Ps2Mouse _mouse;
    private readonly I8042 _controller;

    public Ps2Tests()
    {
        _mouse = new Ps2Mouse(_clock);
        _controller = new I8042(_irq1, _irq12, new RecordingMachine(), _clock, _keyboard, _mouse);
    }

    [Fact]
    public void Keys_come_translated_to_set_1_byte_by_byte_with_an_interrupt_each()
    {
        _keyboard.OnKey(Key.A, true);
        Assert.False(_irq1.IsAsserted); // a byte takes its time
        _keyboard.OnKey(Key.A, false);
        _keyboard.OnKey(Key.Right, true);
        _keyboard.OnKey(Key.Right, false);
        _clock.Advance(1_000_000);
        Assert.True(_irq1.IsAsserted);
        Assert.Equal(1, Status & 0x21);
        Assert.Equal(0x1E, Data());
        Assert.Equal(0x1E, Data()); // the same until the next one has come
        Assert.False(_irq1.IsAsserted);
        Assert.Equal([0x9E, 0xE0, 0x4D, 0xE0, 0xCD], Read());
        Assert.Equal(6, _irq1.Rises);
    }

    [Theory]
    [InlineData(Key.F7, "41", "83 F0 83", "37")]
    [InlineData(Key.RightControl, "E0 1D", "E0 14 E0 F0 14", "58")]
    [InlineData(Key.KeypadEnter, "E0 1C", "E0 5A E0 F0 5A", "79")]
    [InlineData(Key.LeftMeta, "E0 5B", "E0 1F E0 F0 1F", "8B F0 8B")]
    [InlineData(Key.PrintScreen, "E0 2A E0 37", "E0 12 E0 7C E0 F0 7C E0 F0 12", "57")]
    [InlineData(Key.Pause, "E1 1D 45 E1 9D C5", "E1 14 77 E1 F0 14 F0 77", "62")]
    [InlineData(Key.Less, "56", "61 F0 61", "13")]
    [InlineData(Key.VolumeUp, "E0 30", "E0 32 E0 F0 32", "")]
    [InlineData(Key.LeftShift, "2A", "12 F0 12", "12 F0 12")]
    public void Each_set_has_its_codes(Key key, string makeInSet1, string inSet2, string inSet3)
    {
        _keyboard.OnKey(key, true);
        Assert.Equal(makeInSet1, Hex(Read()));
        _keyboard.OnKey(key, false);
        Read();
        SetConfig(0x05); // no translation
        Tap(key);
        Assert.Equal(inSet2, Hex(Read()));
        Send(0xF0);
        Send(0x01);
        Read();
        _keyboard.OnKey(key, true);
        Assert.Equal(makeInSet1, Hex(Read()));
        _keyboard.OnKey(key, false);
        Send(0xF0);
        Send(0x03);
        Read();
        Tap(key);
        if (key == Key.LeftMeta)
            inSet3 = "8B"; // repeats, without a release code
        Assert.Equal(inSet3, Hex(Read()));
    }

    [Fact]
    public void Special_keys_change_with_modifiers()
    {
        SetConfig(0x05);
        _keyboard.OnKey(Key.LeftAlt, true);
        Tap(Key.PrintScreen);
        _keyboard.OnKey(Key.LeftAlt, false);
        Assert.Equal("11 84 F0 84 F0 11", Hex(Read()));
        _keyboard.OnKey(Key.RightControl, true);
        Tap(Key.Pause);
        Tap(Key.PrintScreen);
        Assert.Equal("E0 14 E0 7E E0 F0 7E E0 7C E0 F0 7C", Hex(Read()));
    }

    [Fact]
    public void Set_3_sends_what_each_key_is_told_to()
    {
        SetConfig(0x05);
        SendAll(0xF0, 0x03);
        SendAll(0xFA); // all keys repeat and say when they are released
        Tap(Key.A);
        Assert.Equal("1C F0 1C", Hex(Read()));
        SendAll(0xFD, 0x1C, 0x32); // A and B: neither
        Assert.Equal("", Hex(Read()));
        _keyboard.OnKey(Key.A, true);
        _keyboard.OnKey(Key.A, true);
        _keyboard.OnKey(Key.A, false);
        Tap(Key.C);
        Assert.Equal("1C 21 F0 21", Hex(Read()));
        SendAll(0xFC, 0x1C);
        _keyboard.OnKey(Key.A, true);
        _keyboard.OnKey(Key.A, true);
        _keyboard.OnKey(Key.A, false);
        Assert.Equal("1C F0 1C", Hex(Read()));
        SendAll(0xF6);
        Send(0xF0);
        Read();
        Send(0x00);
        Assert.Equal("FA 02", Hex(Read()));
    }

    [Theory]
    [InlineData("FF", "FA AA")]
    [InlineData("F2", "FA AB 83")]
    [InlineData("EE", "EE")]
    [InlineData("ED 07", "FA FA")]
    [InlineData("ED F2", "FA FA AB 83")] // a command instead of the parameter
    [InlineData("F3 20", "FA FA")]
    [InlineData("F3 80", "FA FE")]
    [InlineData("F0 04", "FA FE")]
    [InlineData("F0 00", "FA FA 02")]
    [InlineData("F4", "FA")]
    [InlineData("F5", "FA")]
    [InlineData("EC", "FE")]
    [InlineData("01", "FE")]
    [InlineData("EE FE", "EE EE")]
    public void The_keyboard_answers_its_commands(string commands, string answers)
    {
        SetConfig(0x05);
        var all = new List<byte>();
        foreach (var command in commands.Split(' '))
        {
            Send(Convert.ToByte(command, 16));
            all.AddRange(Read());
        }

        Assert.Equal(answers, Hex(all));
    }

    [Fact]
    public void Answers_are_translated_too()
    {
        Send(0xF2);
        Assert.Equal("FA AB 41", Hex(Read()));
    }

    [Fact]
    public void Leds_and_rate_are_kept()
    {
        SendAll(0xED, 0x05, 0xF3, 0x7F);
        Assert.Equal((KeyboardLeds.ScrollLock | KeyboardLeds.CapsLock, 0x7F), (_keyboard.Leds, _keyboard.TypematicRate));
        SendAll(0xFF);
        Assert.Equal((KeyboardLeds.None, 0x2B), (_keyboard.Leds, _keyboard.TypematicRate));
    }

    [Fact]
    public void A_full_buffer_says_so_and_takes_no_halves()
    {
        SetConfig(0x05);
        for (var i = 0; i < 8; i++)
            _keyboard.OnKey(Key.Up, true); // two bytes each
        Tap(Key.A);
        Tap(Key.B);
        Assert.False(_keyboard.IsIdle);
        Assert.Equal(string.Join(' ', Enumerable.Repeat("E0 75", 8)) + " 00", Hex(Read()));
        Assert.True(_keyboard.IsIdle);
        Tap(Key.A);
        Assert.Equal("1C F0 1C", Hex(Read()));
    }

    [Fact]
    public void A_keyboard_that_is_switched_off_says_nothing()
    {
        Command(0xAD);
        Tap(Key.A);
        Assert.Empty(Read());
        Command(0xAE);
        Assert.Equal("1E 9E", Hex(Read()));
        SendAll(0xF5);
        Tap(Key.A);
        Assert.Empty(Read());
    }

    [Fact]
    public void An_answer_of_the_controller_waits_for_the_byte_before_it()
    {
        _keyboard.OnKey(Key.A, true);
        _clock.Advance(1_000_000);
        _keyboard.OnKey(Key.B, true);
        Command(0x20);
        Assert.Equal(0x1E, Data());
        Assert.Equal(0x47, Data());
        Assert.Equal("30", Hex(Read()));
    }

    [Fact]
    public void The_output_port_shows_whose_byte_waits()
    {
        Command(0xD0);
        Assert.Equal(0x03, Data());
        Command(0xD3);
        Send(0x11);
        Command(0xD0);
        Data();
        Assert.Equal(0x23, Data());
    }

    [Fact]
    public void The_mouse_starts_and_reports_movement()
    {
        Assert.Equal("FA AA 00", Hex(Mouse(0xFF)));
        _mouse.OnMove(5, 3, 0, PointerButtons.None);
        Assert.Empty(Read());
        Assert.Equal("FA", Hex(Mouse(0xF4)));
        _mouse.OnMove(5, -3, 0, PointerButtons.Left);
        _clock.Advance(20_000_000);
        Assert.True(_irq12.IsAsserted);
        Assert.Equal(0x21, Status & 0x21);
        Assert.Equal("09 05 03", Hex(Read()));
        _mouse.OnMove(-300, 2, 0, PointerButtons.Right | PointerButtons.Middle);
        Assert.Equal("3E 01 FE 1E D3 00", Hex(Read()));
        Assert.Equal("FA 23 02 64", Hex(Mouse(0xE9)));
    }

    [Fact]
    public void No_click_is_lost_between_two_samples()
    {
        Mouse(0xF4);
        _mouse.OnMove(1, 0, 0, PointerButtons.None);
        _mouse.OnMove(1, 0, 0, PointerButtons.Left);
        _mouse.OnMove(1, 0, 0, PointerButtons.None);
        _mouse.OnMove(1, 0, 0, PointerButtons.None);
        Assert.Equal("08 01 00 09 01 00 08 02 00", Hex(Read()));
    }

    [Fact]
    public void Magic_rates_turn_wheel_and_side_buttons_on()
    {
        Assert.Equal("FA 00", Hex(Mouse(0xF2)));
        foreach (byte rate in new byte[] { 200, 100, 80 })
            Mouse(0xF3, rate);
        Assert.Equal("FA 03", Hex(Mouse(0xF2)));
        Mouse(0xF4);
        _mouse.OnMove(0, 0, -1, PointerButtons.None);
        Assert.Equal("08 00 00 FF", Hex(Read()));
        foreach (byte rate in new byte[] { 200, 200, 80 })
            Mouse(0xF3, rate);
        Assert.Equal("FA 04", Hex(Mouse(0xF2)));
        _mouse.OnMove(0, 0, 2, PointerButtons.Back);
        Assert.Equal("08 00 00 12", Hex(Read()));
        _mouse.OnMove(0, 0, -1, PointerButtons.Forward);
        Assert.Equal("08 00 00 2F", Hex(Read()));
        Assert.Equal("FA AA 00", Hex(Mouse(0xFF)));
        Assert.Equal("FA 00", Hex(Mouse(0xF2)));
    }

    [Fact]
    public void A_further_knock_lets_the_wheel_tilt()
    {
        foreach (byte rate in new byte[] { 200, 200, 80 })
            Mouse(0xF3, rate);
        Mouse(0xF4);
        _mouse.OnMove(1, 0, 0, PointerButtons.None, tilt: 5);
        Assert.Equal("08 01 00 00", Hex(Read()));
        foreach (byte rate in new byte[] { 200, 80, 40, 100 })
            Mouse(0xF3, rate);
        Assert.Equal("FA 04", Hex(Mouse(0xF2)));
        _mouse.OnMove(0, 0, 0, PointerButtons.None, tilt: 1);
        Assert.Equal("08 00 00 7F", Hex(Read()));
        _mouse.OnMove(2, 0, 0, PointerButtons.None, tilt: -2);
        Assert.Equal("08 02 00 42", Hex(Read()));
        _mouse.OnMove(3, 0, 1, PointerButtons.Back, tilt: 40); // the rest does not fit in one packet
        Assert.Equal("08 03 00 11 08 00 00 61 08 00 00 77", Hex(Read()));
        Mouse(0xFF);
        foreach (byte rate in new byte[] { 200, 200, 80 })
            Mouse(0xF3, rate);
        Mouse(0xF4);
        _mouse.OnMove(0, 0, 0, PointerButtons.None, tilt: 1);
        Assert.Equal("08 00 00 00", Hex(Read())); // the button of before
    }

    [Fact]
    public void Remote_mode_answers_when_asked()
    {
        Mouse(0xF0);
        _mouse.OnMove(7, 0, 0, PointerButtons.None);
        Assert.Empty(Read());
        Assert.Equal("FA 08 07 00", Hex(Mouse(0xEB)));
        Assert.Equal("FA 08 00 00", Hex(Mouse(0xEB)));
        Assert.Equal("FA 40 02 64", Hex(Mouse(0xE9)));
    }

    [Fact]
    public void Wrap_mode_echoes()
    {
        Mouse(0xEE);
        Assert.Equal("F2 E9", Hex([.. Mouse(0xF2), .. Mouse(0xE9)]));
        Assert.Equal("FA", Hex(Mouse(0xEC)));
        Assert.Equal("FA 00", Hex(Mouse(0xF2)));
    }

    [Fact]
    public void Scaling_doubles_large_counts_in_stream_mode()
    {
        Mouse(0xE7);
        Mouse(0xE8, 3);
        Mouse(0xF4);
        Assert.Equal("FA 30 03 64", Hex(Mouse(0xE9)));
        _mouse.OnMove(4, 0, 0, PointerButtons.None);
        _clock.Advance(20_000_000);
        Assert.Equal("08 06 00", Hex(Read()));
        _mouse.OnMove(-20, 0, 0, PointerButtons.None);
        Assert.Equal("18 D8 00", Hex(Read()));
    }

    [Fact]
    public void Samples_keep_the_rate()
    {
        Mouse(0xF3, 20);
        Mouse(0xF4);
        Read();
        _mouse.OnMove(1, 0, 0, PointerButtons.None);
        _clock.Advance(1_000_000);
        Data();
        for (var i = 0; i < 3; i++)
            _clock.Advance(1_000_000);
        var start = _clock.NowNs;
        _mouse.OnMove(1, 0, 0, PointerButtons.None);
        Read(limitNs: 30_000_000);
        Assert.Equal("08 01 00", Hex(Read(limitNs: 100_000_000)));
        Assert.True(_clock.NowNs - start > 40_000_000);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void Random_commands_and_input_survive(int seed)
    {
        var random = new Random(seed);
        var keys = Enum.GetValues<Key>();
        for (var i = 0; i < 30_000; i++)
        {
            switch (random.Next(8))
            {
                case 0:
                    Command((byte)random.Next(256));
                    break;
                case 1:
                    Command(0xD4);
                    Send((byte)random.Next(256));
                    break;
                case 2:
                    Send((byte)random.Next(256));
                    break;
                case 3:
                    Data();
                    break;
                case 4:
                    _keyboard.OnKey(keys[random.Next(keys.Length)], random.Next(2) == 0);
                    break;
                case 5:
                    _keyboard.OnKey((Key)random.Next(-10, 1000), random.Next(2) == 0);
                    break;
                case 6:
                    _mouse.OnMove(random.Next(int.MinValue, int.MaxValue), random.Next(int.MinValue, int.MaxValue), random.Next(-20, 20), (PointerButtons)random.Next(64));
                    break;
                default:
                    _clock.Advance(random.Next(2_000_000));
                    break;
            }
        }

        _controller.Reset();
        Read();
        Tap(Key.A);
        Assert.Equal("1E 9E", Hex(Read()));
    }

    private int Status => (int)_controller.CommandPort.Read(0, 1);

    private byte Data() => (byte)_controller.DataPort.Read(0, 1);

    private void Command(byte value) => _controller.CommandPort.Write(0, 1, value);

    private void Send(byte value) => _controller.DataPort.Write(0, 1, value);

    /// <summary>Sends bytes to the keyboard and takes its answers away.</summary>
    private void SendAll(params byte[] values)
    {
        foreach (var value in values)
        {
            Send(value);
            Assert.Equal(0xFA, Read()[0]);
        }
    }

    private List<byte> Mouse(params byte[] values)
    {
        var answers = new List<byte>();
        foreach (var value in values)
        {
            Command(0xD4);
            Send(value);
            answers.AddRange(Read());
        }

        return answers;
    }

    private void SetConfig(byte value)
    {
        Command(0x60);
        Send(value);
    }

    private void Tap(Key key)
    {
        _keyboard.OnKey(key, true);
        _keyboard.OnKey(key, false);
    }

    /// <summary>What comes until nothing has come for a time that is longer than a sample.</summary>
    private List<byte> Read(long limitNs = 20_000_000)
    {
        var bytes = new List<byte>();
        for (long waited = 0; waited < limitNs;)
        {
            if ((Status & 1) != 0)
            {
                bytes.Add(Data());
                waited = 0;
                continue;
            }

            _clock.Advance(100_000);
            waited += 100_000;
        }

        return bytes;
    }

    private static string Hex(IEnumerable<byte> bytes) => string.Join(' ', bytes.Select(b => b.ToString("X2")));
}
