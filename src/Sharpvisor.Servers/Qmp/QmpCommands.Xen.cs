// The store of a Xen domain by QMP: x-xenstore, with the words that Xen's xenstore has. QEMU's QMP has nothing like it.
using Sharpvisor.Servers.Control;

namespace Sharpvisor.Servers.Qmp;

internal sealed partial class QmpCommands
{
    private const int LeastWidth = 20, MostWidth = 10_000;

    /// <summary>The store, for x-xenstore-watch, whose events go to the client that asked for them.</summary>
    public XenStoreAccess XenStore => new(_context);

    private void AddXen()
    {
        Add("x-xenstore", ["arguments", "width"], (a, _) =>
        {
            var width = a.OptionalInteger("width") ?? XenStoreAccess.DefaultWidth;
            if (width is < LeastWidth or > MostWidth)
                throw new ControlException($"Parameter 'width' expects {LeastWidth} to {MostWidth} columns");
            var text = XenStore.Execute(XenStoreRequest.Parse(a.Strings("arguments"), namesMachine: false), (int)width);
            return Task.FromResult<Action<System.Text.Json.Utf8JsonWriter>?>(w => w.WriteStringValue(text));
        });
        Add("x-xenstore-watch", ["path"], _ => throw new ControlException("a watch belongs to a session of its own")); // QmpSession does it
    }
}
