using Sharpvisor.Core;
using Sharpvisor.Core.Display;
using Sharpvisor.Core.Input;
using Sharpvisor.Display;

namespace Sharpvisor.Servers.Vnc;

/// <summary>What of a machine is shown and typed on.</summary>
/// <param name="Gate">Held for each call of the others.</param>
/// <param name="Keyboard">Null: keys are ignored.</param>
/// <param name="Pointer">Null: so is the mouse.</param>
/// <param name="Name">The title of a viewer's window.</param>
public sealed record VncConsole(MachineGate Gate, IScreen Screen, IKeyboardInput? Keyboard, IPointerInput? Pointer, string Name)
{
    /// <summary>A machine's own screen, keyboard and mouse.</summary>
    /// <exception cref="ArgumentException">The machine has no screen.</exception>
    public static VncConsole Of(Machine machine, string name)
    {
        var screen = machine.Screen ?? throw new ArgumentException("a machine without a VGA has no screen to show", nameof(machine));
        return new VncConsole(machine.Gate, new LastingScreen(screen), machine.Keyboard.Device, machine.Mouse, name);
    }

    /// <summary>Shows the last picture when the machine has gone, where the device itself must not be asked any more.</summary>
    private sealed class LastingScreen(GuestScreen screen) : IScreen
    {
        public void Render(Framebuffer target) => screen.Capture(target);

        public bool IsTextMode => screen.IsTextMode;

        public TextScreen? ReadText() => screen.ReadText();
    }
}
