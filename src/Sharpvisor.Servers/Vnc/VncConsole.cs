using Sharpvisor.Core;
using Sharpvisor.Core.Display;
using Sharpvisor.Core.Input;

namespace Sharpvisor.Servers.Vnc;

/// <summary>What of a machine is shown and typed on.</summary>
/// <param name="Gate">Held for each call of the others.</param>
/// <param name="Keyboard">Null: keys are ignored.</param>
/// <param name="Pointer">Null: so is the mouse.</param>
/// <param name="Name">The title of a viewer's window.</param>
public sealed record VncConsole(MachineGate Gate, IScreen Screen, IKeyboardInput? Keyboard, IPointerInput? Pointer, string Name);
