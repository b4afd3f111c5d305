// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio over xenbus: a transport that finds virtio devices in xenstore, tells
 * them of work by event channels, and shows them memory by grants.
 *
 * The protocol is that of docs/virtio-xenbus.md. In short: the back end says in
 * the store what a device is; this end answers with the grant of a control page
 * and an event channel. Everything of virtio's own (status, features, queues,
 * configuration) goes through that page from then on, so that virtio drivers
 * come and go without the connection being touched.
 *
 * All memory that a device reaches goes through the DMA operations below. They
 * grant each page to the back end for as long as it is mapped: an address in a
 * ring is a grant reference with the highest bit set. So it makes no difference
 * whether a domain is PV, PVH or HVM, and the back end sees nothing else.
 */
#include <linux/delay.h>
#include <linux/dma-map-ops.h>
#include <linux/interrupt.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <linux/wait.h>
#include <xen/events.h>
#include <xen/grant_table.h>
#include <xen/page.h>
#include <xen/xen.h>
#include <xen/xenbus.h>

#define VXB_VERSION		1
#define VXB_MAX_QUEUES		256
/* With no more than this every part of a ring lies within a page. */
#define VXB_MAX_QUEUE_SIZE	256
/* An address with this bit is a grant reference and an offset. */
#define VXB_GRANT		(1ULL << 63)
/* A back end that takes longer for a command is taken for dead: seconds. */
#define VXB_PATIENCE		30
/* How long one that closes may keep the control page. */
#define VXB_CLOSE_MS		5000

enum vxb_command {
	VXB_SET_STATUS = 1,	/* argument[0]: status; 0 resets */
	VXB_SET_FEATURES,	/* value[0]: what the driver accepts */
	VXB_SETUP_QUEUE,	/* argument: index, size; value: descriptors, driver's and device's part, port */
	VXB_WRITE_CONFIG,	/* argument: offset, length; value: the bytes */
};

#define VXB_MAX_CONFIG_WRITE	32

/* What this end writes into the control page. */
struct vxb_request {
	__le32 number;		/* written last: a new one asks for something */
	__le32 command;
	__le32 argument[2];
	__le64 value[4];
};

/* What the other end writes. */
struct vxb_response {
	__le32 number;		/* written last: of the request that is done */
	__le32 result;		/* 0, or an errno */
	__le32 status;		/* virtio's device status */
	__le32 generation;	/* odd while the configuration changes */
	__le32 config_events;	/* how often the driver is to look at it again */
};

struct vxb_control {
	struct vxb_request request;
	u8 pad0[0x40 - sizeof(struct vxb_request)];
	struct vxb_response response;
	u8 pad1[0xc0 - sizeof(struct vxb_response)];
	u8 config[0xf00];
};
static_assert(sizeof(struct vxb_control) == XEN_PAGE_SIZE);
static_assert(PAGE_SIZE == XEN_PAGE_SIZE);

/* A xenbus device. */
struct vxb {
	struct xenbus_device *xbdev;
	struct vxb_virtio *virtio;	/* NULL: not connected */

	struct vxb_control *control;
	grant_ref_t control_ref;
	evtchn_port_t port;
	int irq;

	struct mutex lock;		/* one command at a time */
	wait_queue_head_t answered;
	u32 number;			/* of the last command */
	u32 config_events;		/* how many were passed on */
	bool broken;			/* the back end does not do as it should */

	bool foreign;			/* it takes frame numbers instead of grants */
	u32 type, config_length, num_queues;
	u64 features;
	u16 queue_sizes[VXB_MAX_QUEUES];
	atomic_t grants;		/* references in use */
};

/* The virtio device on it, which may be referred to longer than it is there. */
struct vxb_virtio {
	struct virtio_device vdev;
	struct vxb *vxb;
};

/* What the transport keeps of a virtqueue, in its priv. */
struct vxb_queue {
	int irq;
	char name[40];
};

static bool foreign;
module_param(foreign, bool, 0444);
MODULE_PARM_DESC(foreign, "Give frame numbers instead of grants to back ends that may map all memory (default: no)");

static struct vxb *to_vxb(struct virtio_device *vdev)
{
	return container_of(vdev, struct vxb_virtio, vdev)->vxb;
}

static struct vxb *dev_to_vxb(struct device *dev)
{
	return dev_get_drvdata(dev);
}

/* Nothing can be expected of the back end any more. */
static void vxb_break(struct vxb *vxb, const char *why)
{
	if (vxb->broken)
		return;
	vxb->broken = true;
	dev_err(&vxb->xbdev->dev, "%s, it is used no more\n", why);
	if (vxb->virtio)
		virtio_break_device(&vxb->virtio->vdev);
}

/* --- memory: what is mapped for the device is granted --- */

/* Frames that follow each other here need not do so in the machine of a PV domain. */
static bool vxb_is_contiguous(unsigned long pfn, unsigned int pages)
{
	unsigned long gfn = pfn_to_gfn(pfn);
	unsigned int i;

	for (i = 1; i < pages; i++)
		if (pfn_to_gfn(pfn + i) != gfn + i)
			return false;
	return true;
}

static dma_addr_t vxb_map(struct vxb *vxb, phys_addr_t start, size_t size, bool readonly)
{
	unsigned int i, offset = offset_in_page(start), pages = PFN_UP(offset + size);
	unsigned long pfn = PHYS_PFN(start);
	grant_ref_t ref;

	if (vxb->broken)
		return DMA_MAPPING_ERROR;
	if (vxb->foreign && vxb_is_contiguous(pfn, pages))
		return PFN_PHYS(pfn_to_gfn(pfn)) + offset;
	/* One address for the whole: the references have to follow each other. */
	if (gnttab_alloc_grant_reference_seq(pages, &ref))
		return DMA_MAPPING_ERROR;
	for (i = 0; i < pages; i++)
		gnttab_grant_foreign_access_ref(ref + i, vxb->xbdev->otherend_id,
						pfn_to_gfn(pfn + i), readonly);
	atomic_add(pages, &vxb->grants);
	return VXB_GRANT + ((u64)ref << XEN_PAGE_SHIFT) + offset;
}

static void vxb_unmap(struct vxb *vxb, dma_addr_t address, size_t size)
{
	unsigned int i, pages = PFN_UP(offset_in_page(address) + size);
	grant_ref_t ref = (address & ~VXB_GRANT) >> XEN_PAGE_SHIFT;

	if (!(address & VXB_GRANT))
		return;
	for (i = 0; i < pages; i++) {
		if (gnttab_try_end_foreign_access(ref + i))
			continue;
		/* The page stays allocated until the other end lets go of it, but its owner goes on to use it. */
		gnttab_end_foreign_access(ref + i, NULL);
		vxb_break(vxb, "the back end keeps what is not its own any more");
	}
	atomic_sub(pages, &vxb->grants);
}

static void *vxb_dma_alloc(struct device *dev, size_t size, dma_addr_t *address, gfp_t gfp, unsigned long attrs)
{
	void *memory = alloc_pages_exact(PAGE_ALIGN(size), gfp | __GFP_ZERO);

	if (!memory)
		return NULL;
	*address = vxb_map(dev_to_vxb(dev), virt_to_phys(memory), size, false);
	if (*address != DMA_MAPPING_ERROR)
		return memory;
	free_pages_exact(memory, PAGE_ALIGN(size));
	return NULL;
}

static void vxb_dma_free(struct device *dev, size_t size, void *memory, dma_addr_t address, unsigned long attrs)
{
	grant_ref_t ref = (address & ~VXB_GRANT) >> XEN_PAGE_SHIFT;
	unsigned int i, pages = PFN_UP(size);

	if (!(address & VXB_GRANT)) {
		free_pages_exact(memory, PAGE_ALIGN(size));
		return;
	}
	/* Frees each page, if the other end still uses it as soon as it does not. */
	for (i = 0; i < pages; i++)
		gnttab_end_foreign_access(ref + i, virt_to_page(memory + i * PAGE_SIZE));
	atomic_sub(pages, &dev_to_vxb(dev)->grants);
}

static dma_addr_t vxb_dma_map_page(struct device *dev, struct page *page, unsigned long offset, size_t size,
				   enum dma_data_direction dir, unsigned long attrs)
{
	return vxb_map(dev_to_vxb(dev), page_to_phys(page) + offset, size, dir == DMA_TO_DEVICE);
}

static void vxb_dma_unmap_page(struct device *dev, dma_addr_t address, size_t size,
			       enum dma_data_direction dir, unsigned long attrs)
{
	vxb_unmap(dev_to_vxb(dev), address, size);
}

static void vxb_dma_unmap_sg(struct device *dev, struct scatterlist *list, int count,
			     enum dma_data_direction dir, unsigned long attrs)
{
	struct scatterlist *sg;
	int i;

	for_each_sg(list, sg, count, i)
		vxb_unmap(dev_to_vxb(dev), sg_dma_address(sg), sg_dma_len(sg));
}

static int vxb_dma_map_sg(struct device *dev, struct scatterlist *list, int count,
			  enum dma_data_direction dir, unsigned long attrs)
{
	struct scatterlist *sg;
	int i;

	for_each_sg(list, sg, count, i) {
		sg_dma_len(sg) = sg->length;
		sg_dma_address(sg) = vxb_map(dev_to_vxb(dev), sg_phys(sg), sg->length, dir == DMA_TO_DEVICE);
		if (sg_dma_address(sg) == DMA_MAPPING_ERROR) {
			vxb_dma_unmap_sg(dev, list, i, dir, attrs);
			return -ENOMEM;
		}
	}
	return count;
}

static const struct dma_map_ops vxb_dma_ops = {
	.alloc		= vxb_dma_alloc,
	.free		= vxb_dma_free,
	.map_page	= vxb_dma_map_page,
	.unmap_page	= vxb_dma_unmap_page,
	.map_sg		= vxb_dma_map_sg,
	.unmap_sg	= vxb_dma_unmap_sg,
};

/* --- the control page --- */

/* Waits for the answer to a command, as long as there is somebody who may give it. */
static bool vxb_is_answered(struct vxb *vxb)
{
	int seconds;

	for (seconds = 0; seconds < VXB_PATIENCE; seconds++) {
		if (wait_event_timeout(vxb->answered,
				       le32_to_cpu(READ_ONCE(vxb->control->response.number)) == vxb->number, HZ))
			return true;
		switch (xenbus_read_driver_state(vxb->xbdev->otherend)) {
		case XenbusStateConnected:
		case XenbusStateClosing:
			break;
		default:
			return false;
		}
	}
	return false;
}

/* Has the back end do something, and waits for it. Returns 0 or -errno. */
static int vxb_command(struct vxb *vxb, u32 command, u32 argument0, u32 argument1, const void *values, size_t length)
{
	struct vxb_control *control = vxb->control;
	int result = -EIO;

	mutex_lock(&vxb->lock);
	if (vxb->broken)
		goto out;
	control->request.command = cpu_to_le32(command);
	control->request.argument[0] = cpu_to_le32(argument0);
	control->request.argument[1] = cpu_to_le32(argument1);
	memcpy(control->request.value, values, length);
	virt_wmb();
	WRITE_ONCE(control->request.number, cpu_to_le32(++vxb->number));
	notify_remote_via_irq(vxb->irq);
	if (!vxb_is_answered(vxb)) {
		vxb_break(vxb, "the back end does not answer");
		goto out;
	}
	virt_rmb();
	result = -(int)min_t(u32, le32_to_cpu(control->response.result), MAX_ERRNO);
	if (result)
		dev_err(&vxb->xbdev->dev, "command %u (%u, %u): error %d\n", command, argument0, argument1, result);
out:
	mutex_unlock(&vxb->lock);
	return result;
}

static irqreturn_t vxb_control_interrupt(int irq, void *data)
{
	struct vxb *vxb = data;
	struct vxb_virtio *virtio = smp_load_acquire(&vxb->virtio);
	u32 events = le32_to_cpu(READ_ONCE(vxb->control->response.config_events));

	wake_up(&vxb->answered);
	if (virtio && events != vxb->config_events) {
		vxb->config_events = events;
		virtio_config_changed(&virtio->vdev);
	}
	return IRQ_HANDLED;
}

/* --- what virtio asks of its transports --- */

static void vxb_get(struct virtio_device *vdev, unsigned int offset, void *buf, unsigned int len)
{
	struct vxb *vxb = to_vxb(vdev);

	if (WARN_ON_ONCE(offset > vxb->config_length || len > vxb->config_length - offset))
		memset(buf, 0, len);
	else
		memcpy(buf, vxb->control->config + offset, len);
}

static void vxb_set(struct virtio_device *vdev, unsigned int offset, const void *buf, unsigned int len)
{
	if (!WARN_ON_ONCE(len > VXB_MAX_CONFIG_WRITE))
		vxb_command(to_vxb(vdev), VXB_WRITE_CONFIG, offset, len, buf, len);
}

/* What was read between two equal ones belongs together. */
static u32 vxb_generation(struct virtio_device *vdev)
{
	struct vxb_control *control = to_vxb(vdev)->control;
	u32 generation;

	virt_rmb();
	while ((generation = le32_to_cpu(READ_ONCE(control->response.generation))) & 1)
		cpu_relax();
	virt_rmb();
	return generation;
}

static u8 vxb_get_status(struct virtio_device *vdev)
{
	return le32_to_cpu(READ_ONCE(to_vxb(vdev)->control->response.status));
}

static void vxb_set_status(struct virtio_device *vdev, u8 status)
{
	vxb_command(to_vxb(vdev), VXB_SET_STATUS, status, 0, NULL, 0);
}

static void vxb_synchronize(struct virtio_device *vdev)
{
	struct virtqueue *vq;

	list_for_each_entry(vq, &vdev->vqs, list)
		synchronize_irq(((struct vxb_queue *)vq->priv)->irq);
}

/* Afterwards the back end uses nothing of the rings and buffers any more. */
static void vxb_reset(struct virtio_device *vdev)
{
	vxb_set_status(vdev, 0);
	vxb_synchronize(vdev);
}

static u64 vxb_get_features(struct virtio_device *vdev)
{
	return to_vxb(vdev)->features;
}

static int vxb_finalize_features(struct virtio_device *vdev)
{
	__le64 features;

	vring_transport_features(vdev);
	if (!__virtio_test_bit(vdev, VIRTIO_F_VERSION_1)) {
		dev_err(&vdev->dev, "a device of before virtio 1.0\n");
		return -EINVAL;
	}
	features = cpu_to_le64(vdev->features);
	return vxb_command(to_vxb(vdev), VXB_SET_FEATURES, 0, 0, &features, sizeof(features));
}

static irqreturn_t vxb_queue_interrupt(int irq, void *data)
{
	return vring_interrupt(irq, data);
}

static bool vxb_notify(struct virtqueue *vq)
{
	notify_remote_via_irq(((struct vxb_queue *)vq->priv)->irq);
	return true;
}

static void vxb_del_vq(struct virtqueue *vq)
{
	struct vxb_queue *queue = vq->priv;

	irq_set_affinity_hint(queue->irq, NULL);
	unbind_from_irqhandler(queue->irq, vq);
	/* Drivers leave buffers to a device that is reset, such as the balloon's: their grants end here. */
	while (virtqueue_detach_unused_buf(vq))
		;
	vring_del_virtqueue(vq);
	kfree(queue);
}

static void vxb_del_vqs(struct virtio_device *vdev)
{
	struct virtqueue *vq, *next;

	list_for_each_entry_safe(vq, next, &vdev->vqs, list)
		vxb_del_vq(vq);
}

static struct virtqueue *vxb_setup_vq(struct virtio_device *vdev, unsigned int index, vq_callback_t *callback,
				      const char *name, bool context)
{
	struct vxb *vxb = to_vxb(vdev);
	struct vxb_queue *queue;
	struct virtqueue *vq;
	evtchn_port_t port;
	__le64 values[4];
	int err;

	if (index >= vxb->num_queues)
		return ERR_PTR(-ENOENT);
	queue = kzalloc(sizeof(*queue), GFP_KERNEL);
	if (!queue)
		return ERR_PTR(-ENOMEM);
	snprintf(queue->name, sizeof(queue->name), "%s-%s", dev_name(&vdev->dev), name);
	vq = vring_create_virtqueue(index, vxb->queue_sizes[index], PAGE_SIZE, vdev, true, true, context,
				    vxb_notify, callback, name);
	err = -ENOMEM;
	if (!vq)
		goto out_queue;
	vq->priv = queue;
	vq->num_max = vxb->queue_sizes[index];

	err = xenbus_alloc_evtchn(vxb->xbdev, &port);
	if (err)
		goto out_vq;
	err = bind_evtchn_to_irqhandler(port, vxb_queue_interrupt, 0, queue->name, vq);
	if (err < 0) {
		xenbus_free_evtchn(vxb->xbdev, port);
		goto out_vq;
	}
	queue->irq = err;

	values[0] = cpu_to_le64(virtqueue_get_desc_addr(vq));
	values[1] = cpu_to_le64(virtqueue_get_avail_addr(vq));
	values[2] = cpu_to_le64(virtqueue_get_used_addr(vq));
	values[3] = cpu_to_le64(port);
	err = vxb_command(vxb, VXB_SETUP_QUEUE, index, virtqueue_get_vring_size(vq), values, sizeof(values));
	if (!err)
		return vq;

	unbind_from_irqhandler(queue->irq, vq);	/* closes the port, too */
out_vq:
	vring_del_virtqueue(vq);
out_queue:
	kfree(queue);
	return ERR_PTR(err);
}

static int vxb_find_vqs(struct virtio_device *vdev, unsigned int count, struct virtqueue *vqs[],
			vq_callback_t *callbacks[], const char *const names[], const bool *contexts,
			struct irq_affinity *desc)
{
	unsigned int i, index = 0;

	for (i = 0; i < count; i++) {
		vqs[i] = NULL;
		if (!names[i])
			continue;
		vqs[i] = vxb_setup_vq(vdev, index++, callbacks[i], names[i], contexts && contexts[i]);
		if (IS_ERR(vqs[i])) {
			vxb_del_vqs(vdev);
			return PTR_ERR(vqs[i]);
		}
	}
	return 0;
}

static int vxb_set_vq_affinity(struct virtqueue *vq, const struct cpumask *mask)
{
	return irq_set_affinity_hint(((struct vxb_queue *)vq->priv)->irq, mask);
}

static const char *vxb_bus_name(struct virtio_device *vdev)
{
	return dev_name(&to_vxb(vdev)->xbdev->dev);
}

static const struct virtio_config_ops vxb_config_ops = {
	.get			= vxb_get,
	.set			= vxb_set,
	.generation		= vxb_generation,
	.get_status		= vxb_get_status,
	.set_status		= vxb_set_status,
	.reset			= vxb_reset,
	.find_vqs		= vxb_find_vqs,
	.del_vqs		= vxb_del_vqs,
	.synchronize_cbs	= vxb_synchronize,
	.get_features		= vxb_get_features,
	.finalize_features	= vxb_finalize_features,
	.bus_name		= vxb_bus_name,
	.set_vq_affinity	= vxb_set_vq_affinity,
};

/* --- both ends find each other, and part --- */

/* What the back end says of the device. */
static int vxb_describe(struct vxb *vxb)
{
	const char *otherend = vxb->xbdev->otherend;
	char *sizes, *at, *size;
	unsigned int version;
	int err;

	err = xenbus_gather(XBT_NIL, otherend, "version", "%u", &version, "device-type", "%u", &vxb->type,
			    "features", "%llx", &vxb->features, "config-length", "%u", &vxb->config_length, NULL);
	if (err)
		return err;
	if (version != VXB_VERSION || vxb->config_length > sizeof(vxb->control->config))
		return -EPROTO;
	sizes = xenbus_read(XBT_NIL, otherend, "queue-sizes", NULL);
	if (IS_ERR(sizes))
		return PTR_ERR(sizes);
	vxb->num_queues = 0;
	for (at = sizes; !err && (size = strsep(&at, " ")) != NULL; ) {
		u16 *next = &vxb->queue_sizes[vxb->num_queues];

		err = vxb->num_queues++ < VXB_MAX_QUEUES ? kstrtou16(size, 10, next) : -EPROTO;
		if (!err && (*next == 0 || *next > VXB_MAX_QUEUE_SIZE))
			err = -EPROTO;
	}
	kfree(sizes);
	vxb->foreign = foreign && xenbus_read_unsigned(otherend, "feature-foreign-map", 0);
	return err;
}

/* Ends what vxb_connect has begun, as far as that got. */
static void vxb_release(struct vxb *vxb)
{
	unsigned int waited;

	if (vxb->irq)
		unbind_from_irqhandler(vxb->irq, vxb);
	else if (vxb->port)
		xenbus_free_evtchn(vxb->xbdev, vxb->port);
	vxb->irq = 0;
	vxb->port = 0;
	if (!vxb->control)
		return;
	/* The back end lets go of the page when it sees that this end closes. */
	for (waited = 0; waited < VXB_CLOSE_MS; waited += 10) {
		if (gnttab_try_end_foreign_access(vxb->control_ref)) {
			free_page((unsigned long)vxb->control);
			goto out;
		}
		msleep(10);
	}
	gnttab_end_foreign_access(vxb->control_ref, virt_to_page(vxb->control));
out:
	atomic_dec(&vxb->grants);
	vxb->control = NULL;
}

/* The back end waits: tells it where the control page is. */
static int vxb_connect(struct vxb *vxb)
{
	struct xenbus_device *xbdev = vxb->xbdev;
	struct xenbus_transaction transaction;
	int err;

	err = vxb_describe(vxb);
	if (err) {
		xenbus_dev_fatal(xbdev, err, "reading what the device is");
		return err;
	}
	vxb->broken = false;
	vxb->number = vxb->config_events = 0;
	vxb->control = (void *)get_zeroed_page(GFP_KERNEL);
	if (!vxb->control)
		return -ENOMEM;
	err = gnttab_grant_foreign_access(xbdev->otherend_id, virt_to_gfn(vxb->control), 0);
	if (err < 0) {
		free_page((unsigned long)vxb->control);
		vxb->control = NULL;
		return err;
	}
	vxb->control_ref = err;
	atomic_inc(&vxb->grants);
	err = xenbus_alloc_evtchn(xbdev, &vxb->port);
	if (err)
		goto fail;
	err = bind_evtchn_to_irqhandler(vxb->port, vxb_control_interrupt, 0, dev_name(&xbdev->dev), vxb);
	if (err < 0)
		goto fail;
	vxb->irq = err;

	do {
		err = xenbus_transaction_start(&transaction);
		if (err)
			goto fail;
		err = xenbus_printf(transaction, xbdev->nodename, "control-ref", "%u", vxb->control_ref);
		if (!err)
			err = xenbus_printf(transaction, xbdev->nodename, "event-channel", "%u", vxb->port);
		if (!err)
			err = xenbus_printf(transaction, xbdev->nodename, "foreign-map", "%u", vxb->foreign);
		if (err) {
			xenbus_transaction_end(transaction, 1);
			goto fail;
		}
		err = xenbus_transaction_end(transaction, 0);
	} while (err == -EAGAIN);
	if (!err)
		return xenbus_switch_state(xbdev, XenbusStateInitialised);
fail:
	vxb_release(vxb);
	xenbus_dev_fatal(xbdev, err, "connecting");
	return err;
}

static void vxb_release_virtio(struct device *dev)
{
	kfree(container_of(dev_to_virtio(dev), struct vxb_virtio, vdev));
}

/* The back end serves the control page: there is a virtio device. */
static void vxb_register(struct vxb *vxb)
{
	struct vxb_virtio *virtio = kzalloc(sizeof(*virtio), GFP_KERNEL);
	int err;

	if (!virtio) {
		xenbus_dev_fatal(vxb->xbdev, -ENOMEM, "registering a virtio device");
		return;
	}
	xenbus_switch_state(vxb->xbdev, XenbusStateConnected);
	virtio->vxb = vxb;
	virtio->vdev.dev.parent = &vxb->xbdev->dev;
	virtio->vdev.dev.release = vxb_release_virtio;
	virtio->vdev.config = &vxb_config_ops;
	virtio->vdev.id.device = vxb->type;
	virtio->vdev.id.vendor = PCI_ANY_ID;
	err = register_virtio_device(&virtio->vdev);
	if (err) {
		put_device(&virtio->vdev.dev);
		xenbus_dev_fatal(vxb->xbdev, err, "registering a virtio device of type %u", vxb->type);
		return;
	}
	smp_store_release(&vxb->virtio, virtio);
	virtio_config_changed(&virtio->vdev);	/* what was told meanwhile */
}

/* Takes the virtio device away and lets go of the back end. */
static void vxb_disconnect(struct vxb *vxb)
{
	struct vxb_virtio *virtio = vxb->virtio;

	if (virtio) {
		WRITE_ONCE(vxb->virtio, NULL);
		synchronize_irq(vxb->irq);
		unregister_virtio_device(&virtio->vdev);
	}
	xenbus_switch_state(vxb->xbdev, XenbusStateClosing);
	vxb_release(vxb);
}

static void vxb_otherend_changed(struct xenbus_device *xbdev, enum xenbus_state state)
{
	struct vxb *vxb = dev_to_vxb(&xbdev->dev);

	switch (state) {
	case XenbusStateInitWait:
		if (xbdev->state == XenbusStateInitialising)
			vxb_connect(vxb);
		break;
	case XenbusStateConnected:
		if (xbdev->state == XenbusStateInitialised)
			vxb_register(vxb);
		break;
	case XenbusStateClosing:
	case XenbusStateClosed:
		if (xbdev->state == XenbusStateInitialised || xbdev->state == XenbusStateConnected)
			vxb_disconnect(vxb);
		if (xbdev->state != XenbusStateInitialising)
			xenbus_frontend_closed(xbdev);
		break;
	default:
		break;
	}
}

static int vxb_probe(struct xenbus_device *xbdev, const struct xenbus_device_id *id)
{
	struct vxb *vxb = kzalloc(sizeof(*vxb), GFP_KERNEL);

	if (!vxb)
		return -ENOMEM;
	vxb->xbdev = xbdev;
	mutex_init(&vxb->lock);
	init_waitqueue_head(&vxb->answered);
	dev_set_drvdata(&xbdev->dev, vxb);
	xbdev->dev.coherent_dma_mask = DMA_BIT_MASK(64);
	xbdev->dev.dma_mask = &xbdev->dev.coherent_dma_mask;
	set_dma_ops(&xbdev->dev, &vxb_dma_ops);
	/* After a driver that has left: begins anew. */
	return xenbus_switch_state(xbdev, XenbusStateInitialising);
}

static void vxb_remove(struct xenbus_device *xbdev)
{
	struct vxb *vxb = dev_to_vxb(&xbdev->dev);

	vxb_disconnect(vxb);
	if (atomic_read(&vxb->grants))
		dev_warn(&xbdev->dev, "%d grants were not returned\n", atomic_read(&vxb->grants));
	set_dma_ops(&xbdev->dev, NULL);
	xbdev->dev.dma_mask = NULL;
	dev_set_drvdata(&xbdev->dev, NULL);
	kfree(vxb);
}

/* /sys/bus/xen/devices/virtio-N/grants: how many the device has of this domain. */
static ssize_t grants_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%d\n", atomic_read(&dev_to_vxb(dev)->grants));
}
static DEVICE_ATTR_RO(grants);

static struct attribute *vxb_attrs[] = { &dev_attr_grants.attr, NULL };
ATTRIBUTE_GROUPS(vxb);

static const struct xenbus_device_id vxb_ids[] = { { "virtio" }, { "" } };

static struct xenbus_driver vxb_driver = {
	.ids			= vxb_ids,
	.probe			= vxb_probe,
	.remove			= vxb_remove,
	.otherend_changed	= vxb_otherend_changed,
	.driver.dev_groups	= vxb_groups,
};

static int __init vxb_init(void)
{
	return xen_domain() ? xenbus_register_frontend(&vxb_driver) : -ENODEV;
}
module_init(vxb_init);

static void __exit vxb_exit(void)
{
	xenbus_unregister_driver(&vxb_driver);
}
module_exit(vxb_exit);

MODULE_DESCRIPTION("virtio over xenbus");
MODULE_LICENSE("GPL");
MODULE_ALIAS("xen:virtio");
