namespace Sharpvisor.Core.Display;

/// <summary>
/// What a monitor would show, pulled by whoever shows it (a VNC server, a screenshot, a terminal): the device pushes
/// nothing and keeps no list of who looks. A viewer that wants only what changed compares two frames.
/// </summary>
/// <remarks>Called with the machine's gate held.</remarks>
public interface IScreen
{
    /// <summary>Draws the whole screen, after giving <paramref name="target"/> the size of the mode in use.</summary>
    void Render(Framebuffer target);

    /// <summary>The adapter is in a text mode.</summary>
    bool IsTextMode { get; }

    /// <summary>The characters on the screen while the adapter is in a text mode; otherwise null.</summary>
    TextScreen? ReadText();
}
