namespace Sharpvisor.Devices.Xen.Bus;

/// <summary>enum xenbus_state (io/xenbus.h): how far one end of a device has come with the other.</summary>
public enum XenbusState
{
    /// <summary>There is nothing that can be read.</summary>
    Unknown = 0,
    Initialising = 1,

    /// <summary>A back end has said what it can, and waits for the front end.</summary>
    InitWait = 2,

    /// <summary>A front end has said where its rings are, and waits for the back end.</summary>
    Initialised = 3,
    Connected = 4,
    Closing = 5,
    Closed = 6,
    Reconfiguring = 7,
    Reconfigured = 8,
}
