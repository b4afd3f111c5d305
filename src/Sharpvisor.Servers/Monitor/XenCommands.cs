using Sharpvisor.Servers.Control;

namespace Sharpvisor.Servers.Monitor;

/// <summary>Commands that QEMU's monitor does not have: the Xen domain that a guest finds itself in.</summary>
internal sealed class XenCommands(ControlContext context)
{
    private readonly XenStoreAccess _store = new(context);

    public IEnumerable<MonitorCommand> All =>
    [
        new(["xenstore"], "ls|list|read|write|rm|chmod [flags] path ...", "look at and change the store of a Xen domain, as xenstore-ls and its like", MachineCommands.Text(call =>
            _store.Execute(XenStoreRequest.Parse(call.Words, namesMachine: false), XenStoreAccess.DefaultWidth)))
        {
            Complete = i => i == 0 ? XenStoreRequest.Names.Where(n => n != "watch") : [],
        },
    ];

    /// <summary>Subcommands of info.</summary>
    public IEnumerable<MonitorCommand> Info =>
    [
        new(["xen"], "", "show the Xen domain: its number, event channels, grants, store", MachineCommands.Text(call =>
        {
            call.CheckCount(0);
            return _store.Describe();
        })),
        new(["xenstore"], "", "show the store of the Xen domain", MachineCommands.Text(call =>
        {
            call.CheckCount(0);
            return _store.Execute(XenStoreRequest.Parse(["ls"], namesMachine: false), XenStoreAccess.DefaultWidth);
        })),
    ];
}
