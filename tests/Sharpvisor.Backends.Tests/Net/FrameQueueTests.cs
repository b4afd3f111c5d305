using Sharpvisor.Backends.Net;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Tests.Net;

public sealed class FrameQueueTests
{
    [Fact]
    public void Frames_come_out_as_they_went_in_whatever_the_order_of_calls()
    {
        const int longest = 2004;
        var random = new Random(1);
        var queue = new FrameQueue(5000);
        var model = new Queue<byte[]>();
        var refused = 0;
        for (var i = 0; i < 100_000; i++)
        {
            if (random.Next(100) < (i / 1000 % 2 == 0 ? 60 : 40))
            {
                var bytes = new byte[random.Next(random.Next(4) == 0 ? longest - 3 : 100)];
                random.NextBytes(bytes);
                var cut = random.Next(bytes.Length + 1);
                if (queue.TryAdd(new EthernetFrame(bytes.AsSpan(0, cut), bytes.AsSpan(cut))))
                {
                    model.Enqueue(bytes);
                }
                else
                {
                    refused++;
                    // Two pieces of free space, of which neither may do.
                    Assert.True(queue.Used + 2 * longest >= queue.Capacity, $"{queue.Used} used, {bytes.Length} refused");
                }
            }
            else if (queue.TryPeek(out var frame))
            {
                Assert.Equal(model.Dequeue(), frame.ToArray());
                queue.Remove();
            }

            Assert.Equal(model.Count, queue.Count);
            Assert.Equal(model.Sum(f => f.Length + 4), queue.Used);
        }

        Assert.True(refused > 100);
    }
}
