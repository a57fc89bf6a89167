/* Exports Vulkan memory as a dma-buf, and imports a heap's buffer into Vulkan. */
#include <string.h>
#include <vulkan/vulkan.h>

#include "kit.h"

#define WORDS 4096
#define BYTES (WORDS * 4)
#define FILLED 0x12345678u
#define VK(call) NEED((call) == VK_SUCCESS)

static const VkExternalMemoryHandleTypeFlagBits DMA_BUF =
	VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT;
static VkPhysicalDevice physical;
static VkDevice device;
static VkQueue queue;
static VkCommandPool pool;

static void open_device(void)
{
	const char *const names[] = {
		"VK_KHR_external_memory_fd", "VK_EXT_external_memory_dma_buf",
	};
	const VkApplicationInfo application = {
		.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .apiVersion = VK_API_VERSION_1_1,
	};
	const VkInstanceCreateInfo info = {
		.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &application,
	};
	const float priority = 1;
	const VkDeviceQueueCreateInfo queues = {
		.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO, .queueCount = 1,
		.pQueuePriorities = &priority,
	};
	const VkDeviceCreateInfo create = {
		.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO, .queueCreateInfoCount = 1,
		.pQueueCreateInfos = &queues, .enabledExtensionCount = 2,
		.ppEnabledExtensionNames = names,
	};
	const VkCommandPoolCreateInfo commands = {
		.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
	};
	VkPhysicalDeviceProperties properties;
	VkInstance instance;
	uint32_t one = 1;

	VK(vkCreateInstance(&info, NULL, &instance));
	NEED(vkEnumeratePhysicalDevices(instance, &one, &physical) >= 0 && one == 1);
	vkGetPhysicalDeviceProperties(physical, &properties);
	printf("vulkan: %s\n", properties.deviceName);
	VK(vkCreateDevice(physical, &create, NULL, &device));
	vkGetDeviceQueue(device, 0, 0, &queue);
	VK(vkCreateCommandPool(device, &commands, NULL, &pool));
}

static VkBuffer buffer_for_dma_buf(void)
{
	const VkExternalMemoryBufferCreateInfo outside = {
		.sType = VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO, .handleTypes = DMA_BUF,
	};
	const VkBufferCreateInfo info = {
		.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO, .pNext = &outside, .size = BYTES,
		.usage = VK_BUFFER_USAGE_TRANSFER_DST_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT,
	};
	VkBuffer buffer;

	VK(vkCreateBuffer(device, &info, NULL, &buffer));
	return buffer;
}

static VkDeviceMemory memory_with(VkBuffer buffer, const void *next)
{
	VkMemoryRequirements needs;
	VkDeviceMemory memory;

	vkGetBufferMemoryRequirements(device, buffer, &needs);
	VK(vkAllocateMemory(device, &(VkMemoryAllocateInfo){
		.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO, .pNext = next,
		.allocationSize = needs.size,
		.memoryTypeIndex = (uint32_t)__builtin_ctz(needs.memoryTypeBits),
	}, NULL, &memory));
	VK(vkBindBufferMemory(device, buffer, memory, 0));
	return memory;
}

static void submit(VkBuffer from, VkBuffer to)
{
	const VkCommandBufferBeginInfo begin = {
		.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
	};
	VkCommandBuffer commands;

	VK(vkAllocateCommandBuffers(device, &(VkCommandBufferAllocateInfo){
		.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO, .commandPool = pool,
		.commandBufferCount = 1,
	}, &commands));
	VK(vkBeginCommandBuffer(commands, &begin));
	if (from)
		vkCmdCopyBuffer(commands, from, to, 1, &(VkBufferCopy){ .size = BYTES });
	else
		vkCmdFillBuffer(commands, to, 0, BYTES, FILLED);
	VK(vkEndCommandBuffer(commands));
	VK(vkQueueSubmit(queue, 1, &(VkSubmitInfo){
		.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO, .commandBufferCount = 1,
		.pCommandBuffers = &commands,
	}, VK_NULL_HANDLE));
	VK(vkQueueWaitIdle(queue));
}

static uint32_t filled(uint32_t at)
{
	(void)at;
	return FILLED;
}

int main(void)
{
	PFN_vkGetMemoryFdKHR get_fd;
	VkBuffer own, imported;
	VkDeviceMemory memory;
	int heap = allocate(BYTES), fd = -1;

	open_device();
	get_fd = (PFN_vkGetMemoryFdKHR)vkGetDeviceProcAddr(device, "vkGetMemoryFdKHR");
	NEED(get_fd);

	own = buffer_for_dma_buf();
	memory = memory_with(own, &(VkExportMemoryAllocateInfo){
		.sType = VK_STRUCTURE_TYPE_EXPORT_MEMORY_ALLOCATE_INFO, .handleTypes = DMA_BUF,
	});
	VK(get_fd(device, &(VkMemoryGetFdInfoKHR){
		.sType = VK_STRUCTURE_TYPE_MEMORY_GET_FD_INFO_KHR, .memory = memory,
		.handleType = DMA_BUF,
	}, &fd));
	submit(VK_NULL_HANDLE, own);
	printf("vulkan: filled and exported: %u of %d words differ\n", differences(fd, WORDS, filled),
	       WORDS);
	NEED(differences(fd, WORDS, filled) == 0);

	fill(heap, WORDS);
	imported = buffer_for_dma_buf();
	/* Vulkan owns the descriptor that it is given. */
	memory_with(imported, &(VkImportMemoryFdInfoKHR){
		.sType = VK_STRUCTURE_TYPE_IMPORT_MEMORY_FD_INFO_KHR, .handleType = DMA_BUF,
		.fd = dup(heap),
	});
	submit(imported, own);
	printf("vulkan: copied from a heap's buffer: %u of %d words differ\n",
	       differences(fd, WORDS, pattern), WORDS);
	NEED(differences(fd, WORDS, pattern) == 0);
	submit(VK_NULL_HANDLE, imported);
	printf("vulkan: filled the heap's buffer: %u of %d words differ\n",
	       differences(heap, WORDS, filled), WORDS);
	NEED(differences(heap, WORDS, filled) == 0);
	vkDeviceWaitIdle(device);
	return 0;
}
