import type {
  DeviceClass,
  DeviceConstraint,
  DeviceRequest,
  DeviceToleration,
  ExactDeviceRequest,
  OpaqueConfiguration,
  ResourceClaim,
  ResourceSlice,
} from "../../../src/api/kubernetes.ts";
import { gpuDriver, nicDriver } from "./pools.ts";
import type { Random } from "./random.ts";

const gpu = `device.attributes["${gpuDriver}"]`;
const nic = `device.attributes["${nicDriver}"]`;

export const classes: DeviceClass[] = [
  deviceClass("any", []),
  deviceClass("gpu", [`device.driver == "${gpuDriver}" && ${gpu}.type in ["gpu", "many"]`], ["high"]),
  deviceClass("mig", [`device.driver == "${gpuDriver}"`, `${gpu}.type == "mig"`], ["mig-a", "mig-b"]),
  deviceClass("nic", [`device.driver == "${nicDriver}"`]),
  deviceClass("shared", ["device.allowMultipleAllocations"], ["fair"]),
];

function deviceClass(name: string, expressions: string[], configs: string[] = []): DeviceClass {
  const selectors = expressions.map((expression) => ({ cel: { expression } }));
  return { metadata: { name }, spec: { selectors, config: configs.map(configuration) } };
}

function configuration(value: string): OpaqueConfiguration {
  return { opaque: { driver: gpuDriver, parameters: { value } } };
}

const selectors = [
  `${gpu}.?numa.orValue(0) == 0`,
  `has(${gpu}.numa) && ${gpu}.numa == 1`,
  `${gpu}.?healthy.orValue(true) || ${nic}.?healthy.orValue(true)`,
  `has(${gpu}.firmware) && ${gpu}.firmware.isGreaterThan(semver("1.5.0"))`,
  `${gpu}.?profile.orValue("") in ["3g", "2g"]`,
  `!("${gpuDriver}" in device.capacity) || device.capacity["${gpuDriver}"].memory.compareTo(quantity("80Gi")) >= 0`,
  `${nic}.?rail.orValue(0) != 1`,
];
/** Fails on devices that lack the attribute. */
const failing = `${gpu}.numa == 0`;

const toleration: readonly DeviceToleration[] = [
  { operator: "Exists" },
  { key: "broken", operator: "Exists" },
  { key: "broken", operator: "Equal", value: "yes" },
  { key: "drain", operator: "Equal", value: "" },
  { key: "drain", operator: "Exists", effect: "NoSchedule" },
];

/** Classes that select something of the slices, now and then another one. */
function someClass(random: Random, slices: readonly ResourceSlice[]): string {
  if (random.chance(6)) return random.pick(classes).metadata.name;
  const devices = slices.flatMap(({ spec }) => (spec.devices ?? []).map((device) => ({ driver: spec.driver, device })));
  if (random.chance(25) || devices.length === 0) return "any";
  const { driver, device } = random.pick(devices);
  if (device.allowMultipleAllocations === true && random.chance(60)) return "shared";
  if (driver === nicDriver) return "nic";
  return device.attributes?.["type"]?.string === "mig" ? "mig" : "gpu";
}

/** The claims of one pod. `round` makes their names and UIDs unique in a world. */
export function someClaims(random: Random, round: number, slices: readonly ResourceSlice[]): ResourceClaim[] {
  const count = random.chance(65) ? 1 : 2 + random.below(2);
  return Array.from({ length: count }, (_, index) => {
    // Upstream tries every combination: many requests in many claims would take it hours to refuse.
    const length = random.chance(count === 1 ? 55 : 75) ? 1 : 2 + (count === 1 ? random.below(2) : 0);
    const requests = Array.from({ length }, (_, r) => someRequest(random, `r${r}`, slices));
    const names = requests.flatMap(({ name, firstAvailable = [] }) => [
      name,
      ...firstAvailable.map((sub) => `${name}/${sub.name}`),
    ]);
    const constraints = random.chance(70) ? [] : someConstraints(random, names);
    const config = random.chance(75) ? [] : someConfig(random, names);
    return {
      metadata: { name: `claim-${round}-${index}`, namespace: "team", uid: `uid-${round}-${index}` },
      spec: { devices: { requests, constraints, config } },
    };
  });
}

function someRequest(random: Random, name: string, slices: readonly ResourceSlice[]): DeviceRequest {
  if (random.chance(78))
    return {
      name,
      exactly: { ...someAlternative(random, slices), ...(random.chance(8) ? { adminAccess: true } : {}) },
    };
  const count = 2 + random.below(2);
  return {
    name,
    firstAvailable: Array.from({ length: count }, (_, s) => ({ name: `s${s}`, ...someAlternative(random, slices) })),
  };
}

function someAlternative(random: Random, slices: readonly ResourceSlice[]): ExactDeviceRequest {
  const deviceClassName = someClass(random, slices);
  const expressions = random.chance(75) ? [] : [random.chance(6) ? failing : random.pick(selectors)];
  const tolerations = random.chance(75) ? random.some(toleration, 3) : [];
  const capacity = someCapacityRequests(random);
  return {
    deviceClassName,
    selectors: expressions.map((expression) => ({ cel: { expression } })),
    ...(random.chance(8) ? { allocationMode: "All" } : { allocationMode: "ExactCount", count: someCount(random) }),
    ...(tolerations.length === 0 ? {} : { tolerations }),
    ...(capacity === undefined ? {} : { capacity: { requests: capacity } }),
  };
}

function someCount(random: Random): number {
  return random.chance(3) ? random.pick([16, 17, 31, 32, 33]) : random.pick([1, 1, 1, 1, 1, 2, 2, 3]);
}

function someCapacityRequests(random: Random): Record<string, string> | undefined {
  if (random.chance(85)) return undefined;
  return random.pick<Record<string, string>>([
    { memory: "8Gi" },
    { memory: "40Gi" },
    { memory: "41Gi" },
    { memory: "1500Mi", slots: "3" },
    { slots: "1" },
    { slots: "5" },
    { "example.com/share": "300m" },
    { none: "1" },
  ]);
}

function someConstraints(random: Random, names: readonly string[]): DeviceConstraint[] {
  return Array.from({ length: random.chance(75) ? 1 : 2 }, () => {
    const attribute = random.pick([
      `${gpuDriver}/numa`,
      `${gpuDriver}/rail`,
      `${nicDriver}/rail`,
      `${gpuDriver}/parentUUID`,
      `${gpuDriver}/firmware`,
      `${gpuDriver}/healthy`,
      "resource.kubernetes.io/pcieRoot",
    ]);
    const requests = random.chance(60) ? [] : random.some(names, 2);
    return { requests, ...(random.chance(70) ? { matchAttribute: attribute } : { distinctAttribute: attribute }) };
  });
}

function someConfig(random: Random, names: readonly string[]) {
  return Array.from({ length: 1 + random.below(2) }, (_, index) => ({
    requests: random.chance(40) ? [] : random.some(names, 2),
    ...configuration(`claim-${index}`),
  }));
}
