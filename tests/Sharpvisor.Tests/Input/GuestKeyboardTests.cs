using Sharpvisor.Boot;
using Sharpvisor.Core.Input;
using Sharpvisor.Cpu;
using Sharpvisor.Tests.Boot;

namespace Sharpvisor.Tests.Input;

/// <summary>Typing by program, with the guest's side of the controller read by the test.</summary>
public sealed class GuestKeyboardTests : IAsyncLifetime, IDisposable
{
    private readonly CancellationTokenSource _cancel = new();
    private Machine _machine = null!;

    public async Task InitializeAsync() => _machine = await Machine.CreateBuilder().WithMemory(64 << 20)
        .WithEngine(new ScriptedEngine(_ => VcpuExit.Halted)).WithKernel(BootSource.FromBytes(SyntheticKernel.BzImage(), "kernel")).StartAsync();

    public Task DisposeAsync() => _machine.DisposeAsync().AsTask();

    public void Dispose() => _cancel.Dispose();

    [Fact]
    public async Task A_combination_is_pressed_in_order_and_released_from_the_last()
    {
        var press = _machine.Keyboard.SendKeysAsync("ctrl-alt-delete");
        Assert.Equal([0x1D, 0x38, 0xE0, 0x53, 0xE0, 0xD3, 0xB8, 0x9D], await FetchAsync(8));
        await press;
    }

    [Fact]
    public async Task Who_gives_up_while_keys_are_held_lets_go_of_them()
    {
        var press = _machine.Keyboard.PressAsync([Key.LeftControl, Key.C], TimeSpan.FromMinutes(1), _cancel.Token);
        Assert.Equal([0x1D, 0x2E], await FetchAsync(2));
        await _cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => press);
        Assert.Equal([0xAE, 0x9D], await FetchAsync(2));
    }

    [Fact]
    public async Task Who_gives_up_while_the_guest_does_not_listen_lets_go_as_well()
    {
        var press = _machine.Keyboard.TypeAsync("A", _cancel.Token); // Shift is down, the letter waits
        await _cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => press);
        Assert.Equal([0x2A, 0xAA], await FetchAsync(2));
    }

    private async Task<List<int>> FetchAsync(int count)
    {
        List<int> bytes = [];
        for (var i = 0; i < 2000 && bytes.Count < count; i++)
        {
            if ((_machine.Ports.Read(0x64, 1) & 1) != 0)
                bytes.Add((int)_machine.Ports.Read(0x60, 1));
            else
                await Task.Delay(1);
        }

        return bytes;
    }
}
