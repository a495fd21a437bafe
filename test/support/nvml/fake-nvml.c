/*
 * A minimal libnvidia-ml.so.1: machines from tables, faults from a file. It exists to prove how the driver calls NVML and
 * what it makes of the answers; it knows nothing of how NVML works inside.
 *
 * FAKE_NVML         hgx (8 × H100 behind NVSwitch), bridge (4 × H100 PCIe in two bridged pairs), mig (2 × A100-80 with MIG
 *                   mode on), nvl (4 × GB200 of a multi-node domain)
 * FAKE_NVML_STATE   file that holds GPU instances and compute instances between processes
 * FAKE_NVML_FAULTS  lines `fail CALL CODE`, `slow CALL MILLISECONDS`, `die CALL`, `lost GPU`, `xid GPU NUMBER`, `ecc GPU ERRORS`,
 *                   `recovery GPU ACTION`, `events GPU TYPES`, `broken GPU CODE`, `field GPU CODE`, `profiles GPU CODE`, `late CALL MILLISECONDS`; read at
 *                   each call. `late`: the process is killed during the call, whose effect comes later, as the kernel finishes
 *                   what it began
 *
 * Geometry: `nvidia-smi mig -lgip` and `-lgipp` of an A100-SXM4-80GB (NVIDIA/mig-parted #120, gpu-operator #1303). Links: NV18 of
 * HGX H100, NV12 of bridged pairs (`nvidia-smi topo -m`, `nvidia-smi nvlink -s`).
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, SMALL = 7, TIMEOUT = 10, LOST = 15, VERSION = 25, FULL = 23, IN_USE = 19 };

typedef struct { char legacy[16]; unsigned domain, bus, device, deviceId, subsystem; char busId[32]; } PciInfo;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned char uuid[16]; int status; unsigned clique; unsigned char state; unsigned health; } Fabric;
typedef struct { unsigned start, size; } Placement;
typedef struct { unsigned version, id, p2p, slices, instances, sms, ces, decs, encs, jpegs, ofas; unsigned long long memoryMB; char name[96]; } Profile;
typedef struct { void *device; unsigned id, profileId; Placement placement; } InstanceInfo;
typedef struct { unsigned id, slices, instances, sms, ce, dec, enc, jpeg, ofa; } ComputeProfile;
typedef struct { void *device, *instance; unsigned id, profileId; Placement placement; } ComputeInfo;
typedef struct { void *device; unsigned long long type, data; unsigned gi, ci; } Event;
typedef struct { unsigned id, scope; long long timestamp, latency; int type, code; unsigned long long value; } Field;

typedef struct { unsigned index, bus, domain; int mig; } Gpu;
typedef struct { int used, gpu, id, row, start, hasCompute; unsigned serial; } Instance;

static const unsigned hgxBuses[] = {0x1b, 0x43, 0x52, 0x61, 0x9d, 0xc3, 0xd1, 0xdf};
static const unsigned bridgeBuses[] = {0x17, 0x65, 0xca, 0xe3};
static const unsigned migBuses[] = {0x07, 0x0f};
/* Made up; not in the order of the buses, so that nothing else passes for it. */
static const unsigned hgxModules[] = {2, 4, 1, 3, 7, 5, 8, 6};
static Gpu gpus[8];
static int gpuCount;
static unsigned long long registered[8];
static char machine[16];
static struct { Instance instances[16]; unsigned serial; } state;

/* NVML's index of the profile, its ID, slices, size, SMs, engines, memory, name, starts. A100-SXM4-80GB. */
static const struct { unsigned index, id, slices, size, sms, ces, decs, jpegs, ofas, memoryMB, most; const char *name; int starts[8]; } rows[] = {
	{0, 19, 1, 1, 14, 1, 0, 0, 0, 9728, 7, "MIG 1g.10gb", {0, 1, 2, 3, 4, 5, 6, -1}},
	{7, 20, 1, 1, 14, 1, 1, 1, 1, 9728, 1, "MIG 1g.10gb+me", {0, 1, 2, 3, 4, 5, 6, -1}},
	{9, 15, 1, 2, 14, 1, 1, 0, 0, 19968, 4, "MIG 1g.20gb", {0, 2, 4, 6, -1}},
	{1, 14, 2, 2, 28, 2, 1, 0, 0, 19968, 3, "MIG 2g.20gb", {0, 2, 4, -1}},
	{2, 9, 3, 4, 42, 3, 2, 0, 0, 40192, 2, "MIG 3g.40gb", {0, 4, -1}},
	{3, 5, 4, 4, 56, 4, 2, 0, 0, 40192, 1, "MIG 4g.40gb", {0, -1}},
	{4, 0, 7, 8, 98, 7, 5, 1, 1, 80640, 1, "MIG 7g.80gb", {0, -1}},
};
enum { ROWS = sizeof rows / sizeof *rows };

static void loadState(void) {
	FILE *file = getenv("FAKE_NVML_STATE") ? fopen(getenv("FAKE_NVML_STATE"), "rb") : NULL;
	if (!file) return;
	if (fread(&state, sizeof state, 1, file) != 1) memset(&state, 0, sizeof state);
	fclose(file);
}
static void saveState(void) {
	const char *path = getenv("FAKE_NVML_STATE");
	char next[4096];
	if (!path || snprintf(next, sizeof next, "%s.%d", path, (int)getpid()) >= (int)sizeof next) return;
	FILE *file = fopen(next, "wb");
	if (!file) return;
	fwrite(&state, sizeof state, 1, file);
	fclose(file);
	/* Another process, which reads without the lock, finds the old state or the new one. */
	rename(next, path);
}
/* The number behind `WHAT KEY` in the file of faults; -1: no such line. */
static long fault(const char *what, const char *key) {
	char verb[64], name[96];
	long number = -1, value;
	FILE *file = getenv("FAKE_NVML_FAULTS") ? fopen(getenv("FAKE_NVML_FAULTS"), "r") : NULL;
	if (!file) return -1;
	char line[256];
	while (fgets(line, sizeof line, file)) {
		value = 0;
		if (sscanf(line, "%63s %95s %ld", verb, name, &value) >= 2 && !strcmp(verb, what) && !strcmp(name, key)) number = value;
	}
	fclose(file);
	return number;
}
static long gpuFault(const char *what, Gpu *gpu) {
	char key[8];
	snprintf(key, sizeof key, "%u", gpu->index);
	return fault(what, key);
}
static int entered(const char *call) {
	/* Ends early when the line is taken out. */
	for (long waited = 0; waited < fault("slow", call); waited += 20) usleep(20000);
	if (fault("die", call) >= 0) raise(SIGSEGV);
	return fault("fail", call) > 0 ? (int)fault("fail", call) : SUCCESS;
}
#define ENTER do { int code_ = entered(__func__); if (code_) return code_; } while (0)
#define ENTER_GPU(gpu) do { ENTER; if (gpuFault("lost", gpu) >= 0) return LOST; if (gpuFault("broken", gpu) > 0) return gpuFault("broken", gpu); } while (0)

static int answerText(char *buffer, unsigned length, const char *text) {
	if (strlen(text) + 1 > length) return SMALL;
	strcpy(buffer, text);
	return SUCCESS;
}
static Gpu *migParent(void *device, Instance **instance) {
	for (int i = 0; i < 16; i++) {
		if (device == &state.instances[i]) {
			*instance = &state.instances[i];
			return &gpus[state.instances[i].gpu];
		}
	}
	*instance = NULL;
	return device;
}

API const char *nvmlErrorString(int code) {
	switch (code) {
	case NOT_SUPPORTED: return "Not Supported";
	case NOT_FOUND: return "Not Found";
	case LOST: return "GPU is lost";
	case FULL: return "Insufficient Resources";
	case 9: return "Driver Not Loaded";
	default: return "Unknown Error";
	}
}
API int nvmlInit_v2(void) {
	ENTER;
	snprintf(machine, sizeof machine, "%s", getenv("FAKE_NVML") ? getenv("FAKE_NVML") : "");
	const unsigned *buses = !strcmp(machine, "hgx") ? hgxBuses : !strcmp(machine, "bridge") ? bridgeBuses : migBuses;
	gpuCount = !strcmp(machine, "hgx") ? 8 : !strcmp(machine, "bridge") || !strcmp(machine, "nvl") ? 4 : 2;
	static const unsigned nvlDomains[] = {8, 9, 0x18, 0x19};
	for (int i = 0; i < gpuCount; i++) {
		int nvl = !strcmp(machine, "nvl");
		gpus[i] = (Gpu){i, nvl ? 1 : buses[i], nvl ? nvlDomains[i] : 0, !strcmp(machine, "mig")};
	}
	loadState();
	return SUCCESS;
}
API int nvmlSystemGetDriverVersion(char *text, unsigned length) { ENTER; return answerText(text, length, "570.133.05"); }
API int nvmlSystemGetCudaDriverVersion_v2(int *version) { ENTER; *version = 12080; return SUCCESS; }
API int nvmlDeviceGetCount_v2(unsigned *count) { ENTER; *count = gpuCount; return SUCCESS; }
API int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
	ENTER;
	if ((int)index >= gpuCount) return INVALID;
	if (gpuFault("lost", &gpus[index]) >= 0) return LOST;
	*device = &gpus[index];
	return SUCCESS;
}
API int nvmlDeviceGetName(void *device, char *text, unsigned length) {
	ENTER_GPU((Gpu *)device);
	return answerText(text, length, !strcmp(machine, "hgx") ? "NVIDIA H100 80GB HBM3" : !strcmp(machine, "bridge") ? "NVIDIA H100 PCIe" : !strcmp(machine, "nvl") ? "NVIDIA GB200" : "NVIDIA A100-SXM4-80GB");
}
API int nvmlDeviceGetUUID(void *device, char *text, unsigned length) {
	Instance *instance;
	Gpu *gpu = migParent(device, &instance);
	ENTER_GPU(gpu);
	char uuid[80];
	if (instance) snprintf(uuid, sizeof uuid, "MIG-00000000-0000-4000-8000-%012x", instance->serial);
	else snprintf(uuid, sizeof uuid, "GPU-00000000-0000-4000-8000-0000000000%02x", gpu->index);
	return answerText(text, length, uuid);
}
API int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
	ENTER;
	for (int i = 0; i < gpuCount; i++) {
		char text[80];
		snprintf(text, sizeof text, "GPU-00000000-0000-4000-8000-0000000000%02x", i);
		if (strcmp(uuid, text)) continue;
		if (gpuFault("lost", &gpus[i]) >= 0) return LOST;
		*device = &gpus[i];
		return SUCCESS;
	}
	return NOT_FOUND;
}
API int nvmlDeviceGetMinorNumber(void *device, unsigned *minor) { ENTER_GPU((Gpu *)device); *minor = ((Gpu *)device)->index; return SUCCESS; }
API int nvmlDeviceGetBrand(void *device, int *brand) { ENTER_GPU((Gpu *)device); *brand = 14; return SUCCESS; }
API int nvmlDeviceGetArchitecture(void *device, unsigned *value) { ENTER_GPU((Gpu *)device); *value = !strcmp(machine, "mig") ? 7 : !strcmp(machine, "nvl") ? 10 : 9; return SUCCESS; }
API int nvmlDeviceGetModuleId(void *device, unsigned *id) {
	ENTER_GPU((Gpu *)device);
	if (!strcmp(machine, "nvl")) return NOT_SUPPORTED;
	*id = !strcmp(machine, "hgx") ? hgxModules[((Gpu *)device)->index] : !strcmp(machine, "bridge") ? 0 : ((Gpu *)device)->index + 1;
	return SUCCESS;
}
API int nvmlDeviceGetAddressingMode(void *device, unsigned *mode) {
	ENTER_GPU((Gpu *)device);
	if (mode[0] != (8 | 1u << 24)) return VERSION;
	mode[1] = !strcmp(machine, "nvl") ? 2 : 1;
	return SUCCESS;
}
API int nvmlDeviceGetMemoryInfo(void *device, Memory *memory) { ENTER_GPU((Gpu *)device); memory->total = 85520809984ULL; memory->free = memory->total; memory->used = 0; return SUCCESS; }
API int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) { ENTER_GPU((Gpu *)device); *major = !strcmp(machine, "mig") ? 8 : !strcmp(machine, "nvl") ? 10 : 9; *minor = 0; return SUCCESS; }
static void fillPci(PciInfo *pci, unsigned domain, unsigned bus) {
	memset(pci, 0, sizeof *pci);
	snprintf(pci->legacy, sizeof pci->legacy, "%04X:%02X:00.0", domain, bus);
	snprintf(pci->busId, sizeof pci->busId, "%08X:%02X:00.0", domain, bus);
	pci->domain = domain;
	pci->bus = bus;
}
API int nvmlDeviceGetPciInfo_v3(void *device, PciInfo *pci) { ENTER_GPU((Gpu *)device); fillPci(pci, ((Gpu *)device)->domain, ((Gpu *)device)->bus); return SUCCESS; }
API int nvmlDeviceGetTotalEccErrors(void *device, int type, int counter, unsigned long long *count) {
	ENTER_GPU((Gpu *)device);
	if (type != 1 || counter != 0) return INVALID;
	long errors = gpuFault("ecc", device);
	*count = errors < 0 ? 0 : errors;
	return SUCCESS;
}
API int nvmlDeviceGetFieldValues(void *device, int count, Field *values) {
	ENTER_GPU((Gpu *)device);
	if (count != 1 || values[0].id != 230) return INVALID;
	long action = gpuFault("recovery", device);
	long code = gpuFault("field", device);
	values[0].code = code > 0 ? code : SUCCESS;
	values[0].value = (0xdeadbeefULL << 32) | (unsigned)(action < 0 ? 0 : action);
	return SUCCESS;
}
API int nvmlDeviceGetNvLinkState(void *device, unsigned link, int *active) {
	ENTER_GPU((Gpu *)device);
	unsigned links = !strcmp(machine, "bridge") || !strcmp(machine, "mig") ? 12 : 18;
	if (link >= links) return INVALID;
	*active = 1;
	return SUCCESS;
}
API int nvmlDeviceGetNvLinkRemoteDeviceType(void *device, unsigned link, int *type) {
	ENTER_GPU((Gpu *)device);
	(void)link;
	*type = !strcmp(machine, "bridge") ? 0 : 2;
	return SUCCESS;
}
API int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *device, unsigned link, PciInfo *pci) {
	ENTER_GPU((Gpu *)device);
	Gpu *gpu = device;
	/* Behind NVSwitch the other end is the switch, never a GPU. */
	if (!strcmp(machine, "bridge")) fillPci(pci, 0, gpus[gpu->index ^ 1].bus);
	else fillPci(pci, 0, 0xf0 + link % 4);
	return SUCCESS;
}
API int nvmlDeviceGetGpuFabricInfoV(void *device, Fabric *fabric) {
	ENTER_GPU((Gpu *)device);
	if (fabric->version != (sizeof *fabric | 2u << 24)) return VERSION;
	unsigned version = fabric->version;
	memset(fabric, 0, sizeof *fabric);
	fabric->version = version;
	/* NVSwitch boards without multi-node NVLink report a finished probe and no cluster. */
	if (!strcmp(machine, "bridge")) return NOT_SUPPORTED;
	fabric->state = 3;
	if (strcmp(machine, "nvl")) return SUCCESS;
	for (int i = 0; i < 16; i++) fabric->uuid[i] = 0x10 + i;
	fabric->clique = 32766;
	return SUCCESS;
}
API int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
	ENTER_GPU((Gpu *)device);
	if (!strcmp(machine, "bridge")) return NOT_SUPPORTED;
	*current = *pending = ((Gpu *)device)->mig;
	return SUCCESS;
}
API int nvmlDeviceGetGpuInstanceProfileInfoV(void *device, unsigned index, Profile *profile) {
	ENTER_GPU((Gpu *)device);
	if (gpuFault("profiles", (Gpu *)device) >= 0) return (int)gpuFault("profiles", (Gpu *)device);
	if (profile->version != (sizeof *profile | 2u << 24)) return VERSION;
	for (int row = 0; row < ROWS; row++) {
		if (rows[row].index != index) continue;
		*profile = (Profile){profile->version, rows[row].id, 0, rows[row].slices, rows[row].most, rows[row].sms, rows[row].ces, rows[row].decs, 0, rows[row].jpegs, rows[row].ofas, rows[row].memoryMB, ""};
		strcpy(profile->name, rows[row].name);
		return SUCCESS;
	}
	return NOT_SUPPORTED;
}
API int nvmlDeviceGetGpuInstancePossiblePlacements_v2(void *device, unsigned id, Placement *placements, unsigned *count) {
	ENTER_GPU((Gpu *)device);
	for (int row = 0; row < ROWS; row++) {
		if (rows[row].id != id) continue;
		unsigned found = 0;
		for (; rows[row].starts[found] >= 0; found++) {
			if (found >= *count) return SMALL;
			placements[found] = (Placement){rows[row].starts[found], rows[row].size};
		}
		*count = found;
		return SUCCESS;
	}
	return INVALID;
}
API int nvmlDeviceGetGpuInstances(void *device, unsigned id, void **instances, unsigned *count) {
	ENTER_GPU((Gpu *)device);
	loadState();
	unsigned found = 0;
	for (int i = 0; i < 16; i++) {
		Instance *each = &state.instances[i];
		if (each->used && each->gpu == (int)((Gpu *)device)->index && rows[each->row].id == id) instances[found++] = each;
	}
	*count = found;
	return SUCCESS;
}
API int nvmlDeviceGetGpuInstanceById(void *device, unsigned id, void **instance) {
	ENTER_GPU((Gpu *)device);
	for (int i = 0; i < 16; i++) {
		Instance *each = &state.instances[i];
		if (!each->used || each->gpu != (int)((Gpu *)device)->index || each->id != (int)id) continue;
		*instance = each;
		return SUCCESS;
	}
	return NOT_FOUND;
}
API int nvmlGpuInstanceGetInfo(void *instance, InstanceInfo *info) {
	ENTER;
	Instance *each = instance;
	*info = (InstanceInfo){&gpus[each->gpu], each->id, rows[each->row].id, {each->start, rows[each->row].size}};
	return SUCCESS;
}
API int nvmlDeviceCreateGpuInstanceWithPlacement(void *device, unsigned id, const Placement *placement, void **instance) {
	ENTER_GPU((Gpu *)device);
	int row = 0, at = 0, free = -1, number = 1;
	while (row < ROWS && rows[row].id != id) row++;
	if (row == ROWS) return INVALID;
	while (rows[row].starts[at] >= 0 && rows[row].starts[at] != (int)placement->start) at++;
	if (rows[row].starts[at] < 0 || placement->size != rows[row].size) return INVALID;
	for (int i = 15; i >= 0; i--) {
		Instance *each = &state.instances[i];
		if (!each->used) { free = i; continue; }
		if (each->gpu != (int)((Gpu *)device)->index) continue;
		if (each->id >= number) number = each->id + 1;
		int end = each->start + (int)rows[each->row].size;
		if (each->start < (int)(placement->start + placement->size) && (int)placement->start < end) return FULL;
	}
	if (free < 0) return FULL;
	long late = fault("late", __func__);
	if (late > 0) {
		if (fork()) raise(SIGKILL);
		usleep(late * 1000);
	}
	state.instances[free] = (Instance){1, ((Gpu *)device)->index, number, row, placement->start, 0, ++state.serial};
	saveState();
	if (late > 0) _exit(0);
	*instance = &state.instances[free];
	return SUCCESS;
}
API int nvmlGpuInstanceDestroy(void *instance) {
	ENTER;
	/* As on hardware: its compute instances go first. */
	if (((Instance *)instance)->hasCompute) return IN_USE;
	((Instance *)instance)->used = 0;
	saveState();
	return SUCCESS;
}
API int nvmlGpuInstanceGetComputeInstanceProfileInfo(void *instance, unsigned profile, unsigned engine, ComputeProfile *info) {
	ENTER;
	static const unsigned slices[] = {1, 2, 3, 4, 7, 8, 6, 1};
	if (engine || profile > 7 || slices[profile] > rows[((Instance *)instance)->row].slices || profile == 7) return NOT_SUPPORTED;
	*info = (ComputeProfile){profile, slices[profile], 1, slices[profile] * 14, 0, 0, 0, 0, 0};
	return SUCCESS;
}
API int nvmlGpuInstanceCreateComputeInstance(void *instance, unsigned profile, void **compute) {
	ENTER;
	static const unsigned slices[] = {1, 2, 3, 4, 7, 8, 6, 1};
	Instance *each = instance;
	if (each->hasCompute || profile > 7 || slices[profile] != rows[each->row].slices) return FULL;
	each->hasCompute = 1;
	each->serial = ++state.serial;
	saveState();
	*compute = each;
	return SUCCESS;
}
API int nvmlGpuInstanceGetComputeInstances(void *instance, unsigned profile, void **computes, unsigned *count) {
	ENTER;
	static const unsigned slices[] = {1, 2, 3, 4, 7, 8, 6, 1};
	Instance *each = instance;
	*count = each->hasCompute && slices[profile] == rows[each->row].slices && profile != 7 ? 1 : 0;
	if (*count) computes[0] = each;
	return SUCCESS;
}
API int nvmlComputeInstanceGetInfo_v2(void *compute, ComputeInfo *info) {
	ENTER;
	Instance *each = compute;
	*info = (ComputeInfo){&gpus[each->gpu], each, 0, 0, {0, rows[each->row].slices}};
	return SUCCESS;
}
API int nvmlComputeInstanceDestroy(void *compute) { ENTER; ((Instance *)compute)->hasCompute = 0; saveState(); return SUCCESS; }
API int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count) { ENTER_GPU((Gpu *)device); *count = ((Gpu *)device)->mig ? 7 : 0; return SUCCESS; }
API int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **mig) {
	ENTER_GPU((Gpu *)device);
	unsigned found = 0;
	for (int i = 0; i < 16; i++) {
		Instance *each = &state.instances[i];
		if (!each->used || !each->hasCompute || each->gpu != (int)((Gpu *)device)->index || found++ != index) continue;
		*mig = each;
		return SUCCESS;
	}
	return NOT_FOUND;
}
API int nvmlDeviceGetGpuInstanceId(void *device, unsigned *id) { ENTER; *id = ((Instance *)device)->id; return SUCCESS; }
API int nvmlDeviceGetComputeInstanceId(void *device, unsigned *id) { ENTER; (void)device; *id = 0; return SUCCESS; }
API int nvmlEventSetCreate(void **set) { ENTER; *set = &state; return SUCCESS; }
static unsigned long long eventsOf(Gpu *gpu) {
	long types = gpuFault("events", gpu);
	return types < 0 ? 0x1a : types;
}
API int nvmlDeviceGetSupportedEventTypes(void *device, unsigned long long *types) { ENTER_GPU((Gpu *)device); *types = eventsOf(device); return SUCCESS; }
API int nvmlEventSetFree(void *set) { ENTER; (void)set; memset(registered, 0, sizeof registered); return SUCCESS; }
/* As on hardware: a board that knows one of the types only refuses both. */
API int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set) {
	ENTER_GPU((Gpu *)device);
	(void)set;
	if (!types || types & ~eventsOf(device)) return NOT_SUPPORTED;
	registered[((Gpu *)device)->index] = types;
	return SUCCESS;
}
API int nvmlEventSetWait_v2(void *set, Event *event, unsigned timeoutMs) {
	ENTER;
	(void)set;
	static long told[8];
	for (unsigned waited = 0; waited <= timeoutMs; waited += 20, usleep(20000)) {
		for (int i = 0; i < gpuCount; i++) {
			long xid = gpuFault("xid", &gpus[i]);
			if (xid == -1) told[i] = 0;
			if (xid < 0 || xid == told[i] || !(registered[i] & 8)) continue;
			told[i] = xid;
			*event = (Event){&gpus[i], 8, xid, 0xffffffff, 0xffffffff};
			return SUCCESS;
		}
	}
	return TIMEOUT;
}
