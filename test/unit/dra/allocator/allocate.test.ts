import { describe, expect, test } from "vitest";
import type { Device, ResourceClaimSpec } from "../../../../src/api/kubernetes.ts";
import {
  type AllocateOptions,
  allocateOnNode,
  isAllocationFailure,
  matchingDevices,
} from "../../../../src/dra/allocator/allocate.ts";
import { compileClaim, isClaimProblem } from "../../../../src/dra/allocator/claim.ts";
import { assembleInventory, changeUsage, emptyUsage, type NodeInventory } from "../../../../src/topology/inventory.ts";
import { parseNano } from "../../../../src/topology/quantity.ts";
import type { SliceRecord } from "../../../../src/topology/records.ts";
import {
  claimSpec,
  deviceClass,
  deviceClasses,
  driver,
  exactly,
  gpu,
  gpus,
  migBoard,
  migSlices,
  nodeRecord,
  partition,
  sliceRecord,
} from "../../../builders.ts";

const numaNode = "resource.kubernetes.io/numaNode";
const anyClass = deviceClass("any");
const classes = deviceClasses(anyClass);

function compiled(spec: ResourceClaimSpec, managed: ReadonlySet<string> = new Set([driver])) {
  const claim = compileClaim(spec, classes, managed);
  if (isClaimProblem(claim)) throw new Error(claim.message);
  return claim;
}

/** A node with its devices; the named ones are held. */
function nodeWith(content: readonly Device[] | readonly SliceRecord[], held: readonly string[] = []) {
  const slices = content.every((one) => "devices" in one) ? content : [sliceRecord("n", content as readonly Device[])];
  const inventory = assembleInventory(nodeRecord("n"), slices as readonly SliceRecord[]);
  const usage = emptyUsage(inventory);
  for (const name of held) changeUsage(inventory, usage, inventory.indexOf.get(`${driver}/n/${name}`)!, 1);
  return { inventory, usage };
}

type World = ReturnType<typeof nodeWith>;

/** `request=device …` per claim, or the refusal. */
function choose({ inventory, usage }: World, specs: readonly ResourceClaimSpec[], options: AllocateOptions = {}) {
  const before = structuredClone(usage);
  const choice = allocateOnNode(
    inventory,
    usage,
    specs.map((spec) => compiled(spec)),
    options,
  );
  expect(usage).toEqual(before);
  if (isAllocationFailure(choice)) return choice;
  return choice.claims.map(({ devices }) =>
    devices.map(({ request, device }) => `${request}=${nameOf(inventory, device)}`).join(" "),
  );
}

function nameOf(inventory: NodeInventory, device: number): string {
  return inventory.devices[device]!.name;
}

/** Names of the devices that one claim of `count` whole GPUs gets. */
function gpusFor(world: World, count: number, options: AllocateOptions = {}): string {
  const choice = choose(world, [claimSpec([exactly("g", count)])], options);
  return Array.isArray(choice) ? choice[0]!.replaceAll("g=gpu-", "") : choice.reason;
}

const pairs = (index: number) => ({ nvlinkDomain: `bridge-${index >> 1}` });
const sockets = (index: number) => ({ nvlinkDomain: "n", [numaNode]: index >> 2 });

describe("whole GPUs come from the smallest island that holds them", () => {
  test.each([
    ["an empty board gives its first ones", gpus(8, sockets), [], 4, "0 1 2 3"],
    ["the socket with fewer free ones, when they are enough", gpus(8, sockets), ["gpu-0"], 3, "1 2 3"],
    ["the untouched socket, when they are not", gpus(8, sockets), ["gpu-0"], 4, "4 5 6 7"],
    ["the smaller rest first, so that a whole socket stays", gpus(8, sockets), ["gpu-4", "gpu-5"], 2, "6 7"],
    ["across sockets only when no socket holds them", gpus(8, sockets), ["gpu-0", "gpu-5"], 6, "1 2 3 4 6 7"],
    ["an NVLink pair rather than halves of two", gpus(8, pairs), ["gpu-0", "gpu-3"], 2, "4 5"],
    ["a broken pair for one GPU", gpus(8, pairs), ["gpu-5"], 1, "4"],
    ["whole pairs for an even number", gpus(6, pairs), ["gpu-0"], 4, "2 3 4 5"],
    ["the single one for the odd rest", gpus(6, pairs), ["gpu-0"], 3, "1 2 3"],
    ["neighbours without any island", gpus(8), ["gpu-1"], 3, "2 3 4"],
    ["the smallest gap that fits without any island", gpus(8), ["gpu-1", "gpu-4"], 2, "2 3"],
  ])("%s", (_, devices, held, count, names) => {
    expect(gpusFor(nodeWith(devices, held), count)).toBe(names);
  });

  test("the order of islands can be given", () => {
    const devices = gpus(4, (index) => ({
      "resource.kubernetes.io/pcieRoot": `p${index % 2}`,
      [numaNode]: index >> 1,
    }));
    expect(gpusFor(nodeWith(devices), 2)).toBe("0 1");
    expect(gpusFor(nodeWith(devices), 2, { islands: ["resource.kubernetes.io/pcieRoot"] })).toBe("0 2");
  });

  test("claims of one pod stay in one island, also when another is smaller", () => {
    const devices = gpus(11, (index) => ({ [numaNode]: index < 8 ? 0 : 1 }));
    const one = claimSpec([exactly("g", 1)]);
    expect(choose(nodeWith(devices), [one, one, one, one])).toEqual(["g=gpu-0", "g=gpu-1", "g=gpu-2", "g=gpu-3"]);
    expect(choose(nodeWith(devices), [one, one, one])).toEqual(["g=gpu-8", "g=gpu-9", "g=gpu-10"]);
  });

  test("near what the gang already has on the node", () => {
    const world = nodeWith(gpus(8, sockets), ["gpu-4", "gpu-5"]);
    expect(gpusFor(nodeWith(gpus(8, sockets), ["gpu-0", "gpu-1"]), 2, { near: [0, 1] })).toBe("2 3");
    expect(gpusFor(world, 2, { near: [0, 1] })).toBe("0 1");
  });
});

describe("partitions are packed", () => {
  const world = (held: readonly string[]) => nodeWith(migSlices("n", [migBoard(0), migBoard(1), migBoard(2)]), held);
  test.each([
    ["an empty GPU keeps room for the largest others", [], "1g", "gpu-0-mig-1g-6"],
    ["a cut GPU before an untouched one", ["gpu-1-mig-3g-0"], "1g", "gpu-1-mig-1g-6"],
    ["the fullest cut GPU that still holds it", ["gpu-0-mig-1g-0", "gpu-1-mig-4g-0"], "2g", "gpu-1-mig-2g-4"],
    ["an untouched GPU when no cut one holds it", ["gpu-0-mig-1g-4", "gpu-0-mig-1g-0"], "3g", "gpu-1-mig-3g-4"],
    ["never a GPU that is taken whole", ["gpu-0", "gpu-1"], "7g", "gpu-2-mig-7g-0"],
  ])("%s", (_, held, profile, name) => {
    expect(choose(world(held), [claimSpec([partition("m", profile)])])).toEqual([`m=${name}`]);
  });

  test("seven of the smallest fill one GPU", () => {
    const choice = choose(world([]), [claimSpec([partition("m", "1g", 7)])]);
    expect(choice).toEqual([expect.stringMatching(/^(m=gpu-0-mig-1g-\d ?){7}$/)]);
  });

  test("an untouched GPU stays whole even where it could give less than the cut one", () => {
    const slices = migSlices("n", [migBoard(0), migBoard(1, ["1g"])]);
    const small = claimSpec([partition("m", "1g")]);
    expect(choose(nodeWith(slices), [small])).toEqual(["m=gpu-1-mig-1g-0"]);
    expect(choose(nodeWith(slices, ["gpu-0-mig-1g-6"]), [small])).toEqual(["m=gpu-0-mig-1g-4"]);
    expect(choose(nodeWith(slices), [claimSpec([partition("a", "3g"), partition("b", "1g")])])).toEqual([
      "a=gpu-0-mig-3g-4 b=gpu-0-mig-1g-0",
    ]);
  });

  test("a whole GPU is not given while a part of it is held", () => {
    expect(gpusFor(world(["gpu-0-mig-1g-0", "gpu-1-mig-1g-0"]), 1)).toBe("2");
    expect(gpusFor(world(["gpu-0-mig-1g-0", "gpu-1-mig-1g-0"]), 2)).toBe("InsufficientDevices");
  });

  test("what does not fit together is found out, although each fits alone", () => {
    const full = nodeWith(migSlices("n", [migBoard(0)]));
    const two = (a: string, b: string) =>
      choose(full, [claimSpec([partition("a", a)]), claimSpec([partition("b", b)])]);
    expect(two("4g", "3g")).toEqual(["a=gpu-0-mig-4g-0", "b=gpu-0-mig-3g-4"]);
    expect(two("3g", "4g")).toEqual(["a=gpu-0-mig-3g-4", "b=gpu-0-mig-4g-0"]);
    const many = nodeWith(
      migSlices(
        "n",
        [0, 1, 2, 3, 4, 5, 6, 7].map((index) => migBoard(index)),
      ),
    );
    const claims = [partition("small", "3g", 8), partition("large", "4g", 8)].map((one) => claimSpec([one]));
    expect(choose(many, claims)).toEqual([
      expect.stringMatching(/^(small=\S+-3g-4 ?){8}$/),
      expect.stringMatching(/^(large=\S+-4g-0 ?){8}$/),
    ]);
    expect(two("4g", "4g")).toMatchObject({ reason: "InsufficientDevices", needed: 2, available: 1 });
    expect(two("7g", "1g")).toMatchObject({
      reason: "InsufficientDevices",
      message: expect.stringContaining("together"),
    });
  });
});

describe("constraints", () => {
  const numas = (...values: (number | undefined)[]) =>
    values.map((value, index) => gpu(index, value === undefined ? {} : { [numaNode]: value }));
  const match = (more = {}) => [{ matchAttribute: numaNode, ...more }];

  test.each([
    ["match: one value, where enough are free", numas(0, 0, 1, 1, 1), ["gpu-0"], 3, "2 3 4"],
    ["match: a device without the attribute never counts", numas(undefined, 0, 0), [], 2, "1 2"],
    ["match: refused when no value has enough", numas(0, 0, 1, 1), ["gpu-0", "gpu-2"], 2, "InsufficientDevices"],
  ])("%s", (_, devices, held, count, names) => {
    const choice = choose(nodeWith(devices, held), [claimSpec([exactly("g", count)], match())]);
    expect(Array.isArray(choice) ? choice[0]!.replaceAll("g=gpu-", "") : choice.reason).toBe(names);
  });

  test("match spans requests, and the first request is revised for the second", () => {
    const devices = numas(0, 1, 1, 1);
    const spec = claimSpec([exactly("a", 1), exactly("b", 2)], match());
    expect(choose(nodeWith(devices), [spec])).toEqual(["a=gpu-1 b=gpu-2 b=gpu-3"]);
    const apart = claimSpec([exactly("a", 1), exactly("b", 2)], match({ requests: ["b"] }));
    expect(choose(nodeWith(devices), [apart])).toEqual(["a=gpu-1 b=gpu-2 b=gpu-3"]);
  });

  test("constraints of one claim do not bind another", () => {
    const spec = claimSpec([exactly("g", 2)], match());
    expect(choose(nodeWith(numas(0, 0, 1, 1)), [spec, spec])).toEqual(["g=gpu-0 g=gpu-1", "g=gpu-2 g=gpu-3"]);
  });

  test("distinct: a value at most once, within and across requests", () => {
    const distinct = [{ distinctAttribute: numaNode }];
    expect(choose(nodeWith(numas(0, 0, 1)), [claimSpec([exactly("g", 2)], distinct)])).toEqual(["g=gpu-0 g=gpu-2"]);
    expect(choose(nodeWith(numas(0, 0, 1)), [claimSpec([exactly("g", 3)], distinct)])).toMatchObject({
      reason: "InsufficientDevices",
      message: `node n: 3 devices of DeviceClass gpu.kllama.ai with different values of ${numaNode} are needed, 2 are free`,
    });
    const spec = claimSpec([exactly("a", 1), exactly("b", 1)], distinct);
    expect(choose(nodeWith(numas(0, 0)), [spec])).toMatchObject({ reason: "InsufficientDevices" });
  });

  test("partitions of one GPU", () => {
    const parent = `${driver}/parentUUID`;
    const world = nodeWith(migSlices("n", [migBoard(0), migBoard(1)]), ["gpu-0-mig-4g-0"]);
    const spec = claimSpec([partition("a", "3g"), partition("b", "2g")], [{ matchAttribute: parent }]);
    expect(choose(world, [spec])).toEqual([expect.stringMatching(/^a=gpu-1-mig-3g-\d b=gpu-1-mig-2g-\d$/)]);
    expect(choose(world, [claimSpec([partition("m", "3g", 3)], [{ matchAttribute: parent }])])).toMatchObject({
      reason: "InsufficientDevices",
      needed: 3,
      available: 2,
    });
  });

  test("together binds all claims of the call, and can be pinned to a value", () => {
    const spec = claimSpec([exactly("g", 2)]);
    const world = nodeWith(numas(0, 0, 0, 1, 1, 1, 1));
    const together = [{ attribute: numaNode }];
    expect(choose(world, [spec, spec], { together })).toEqual(["g=gpu-3 g=gpu-4", "g=gpu-5 g=gpu-6"]);
    expect(choose(world, [spec], { together: [{ attribute: numaNode, value: "int:1" }] })).toEqual(["g=gpu-3 g=gpu-4"]);
    expect(choose(world, [spec, spec], { together: [{ attribute: numaNode, value: "int:0" }] })).toMatchObject({
      reason: "InsufficientDevices",
    });
    expect(choose(world, [spec], { together: [{ attribute: numaNode, value: "int:7" }] })).toMatchObject({
      message: `node n: 2 devices of DeviceClass gpu.kllama.ai with one value of ${numaNode} are needed, 0 are free`,
    });
  });
});

describe("modes", () => {
  const first = (...subrequests: [string, number][]) => {
    const firstAvailable = subrequests.map(([name, count]) => ({ name, deviceClassName: "gpu.kllama.ai", count }));
    return claimSpec([{ name: "r", firstAvailable }]);
  };

  test("firstAvailable takes the first that fits, for all claims together", () => {
    expect(choose(nodeWith(gpus(4)), [first(["big", 8], ["small", 2])])).toEqual(["r/small=gpu-0 r/small=gpu-1"]);
    expect(choose(nodeWith(gpus(4)), [first(["big", 4], ["small", 2])])).toEqual([
      "r/big=gpu-0 r/big=gpu-1 r/big=gpu-2 r/big=gpu-3",
    ]);
    expect(choose(nodeWith(gpus(4)), [first(["big", 4], ["small", 2]), first(["big", 3], ["small", 1])])).toEqual([
      "r/small=gpu-0 r/small=gpu-1",
      "r/small=gpu-2",
    ]);
    expect(choose(nodeWith(gpus(1)), [first(["big", 4], ["small", 2])])).toMatchObject({ needed: 4, available: 1 });
  });

  test("All takes every device that is selected, or none", () => {
    const all = claimSpec([exactly("a", 0, { allocationMode: "All" })]);
    expect(choose(nodeWith(gpus(3)), [all])).toEqual(["a=gpu-0 a=gpu-1 a=gpu-2"]);
    expect(choose(nodeWith(gpus(3), ["gpu-1"]), [all])).toMatchObject({ needed: 3, available: 2 });
    expect(choose(nodeWith([]), [all])).toMatchObject({ reason: "NoMatchingDevice" });
    expect(choose(nodeWith(gpus(33)), [all])).toMatchObject({ reason: "InsufficientDevices" });
    const tainted = [gpu(0), gpu(1, {}, { taints: [{ key: "k", effect: "NoSchedule" }] })];
    expect(choose(nodeWith(tainted), [all])).toMatchObject({
      message: expect.stringContaining("has the taint k:NoSchedule"),
    });
    const incomplete = [
      sliceRecord("n", gpus(2)),
      sliceRecord("n", gpus(1), { pool: "p", resourceSliceCount: 2, name: "x" }),
    ];
    expect(choose(nodeWith(incomplete), [all])).toMatchObject({ message: expect.stringContaining("is incomplete") });
  });

  test("at most 32 devices per claim, counted over its requests", () => {
    const all = exactly("a", 0, { allocationMode: "All" }, `device.attributes["${driver}"].index < 31`);
    const rest = exactly("b", 2, {}, `device.attributes["${driver}"].index >= 31`);
    expect(choose(nodeWith(gpus(40)), [claimSpec([rest, all])])).toMatchObject({ reason: "InsufficientDevices" });
    expect(
      choose(nodeWith(gpus(40)), [claimSpec([{ ...rest, exactly: { ...rest.exactly!, count: 1 } }, all])]),
    ).toHaveLength(1);
  });

  test("devices given back while searching do not count against the 32", () => {
    const [big, small] = [20, 10].map((count) => ({ name: `of-${count}`, deviceClassName: "gpu.kllama.ai", count }));
    const spec = claimSpec([{ name: "r", firstAvailable: [big!, small!] }, exactly("s", 15)]);
    const choice = choose(nodeWith(gpus(40)), [spec]);
    expect(choice).toEqual([expect.stringMatching(/^(r\/of-10=gpu-\d+ ){10}(s=gpu-\d+ ?){15}$/)]);
  });

  test("an empty claim and no claim at all need nothing", () => {
    expect(choose(nodeWith([]), [])).toEqual([]);
    expect(choose(nodeWith([]), [{}])).toEqual([""]);
  });
});

describe("devices that are given in parts", () => {
  const policy = { default: "10Gi", validRange: { min: "5Gi", max: "40Gi", step: "5Gi" } };
  const shared = (index: number, more: Partial<Device> = {}) =>
    gpu(
      index,
      {},
      { allowMultipleAllocations: true, capacity: { memory: { value: "80Gi", requestPolicy: policy } }, ...more },
    );
  const part = (memory?: string) =>
    claimSpec([exactly("g", 1, memory === undefined ? {} : { capacity: { requests: { memory } } })]);

  test("go to as many requests as their capacity allows, rounded up to the policy's steps", () => {
    const world = nodeWith([shared(0)]);
    expect(choose(world, [part("31Gi"), part("36Gi"), part()])).toMatchObject({ reason: "InsufficientDevices" });
    expect(choose(world, [part("31Gi"), part("32Gi")])).toEqual(["g=gpu-0", "g=gpu-0"]);
    expect(choose(world, [part("41Gi")])).toMatchObject({ reason: "NoMatchingDevice" });
  });

  test("are given once per request", () => {
    expect(gpusFor(nodeWith([shared(0)]), 2)).toBe("InsufficientDevices");
    expect(gpusFor(nodeWith([shared(0), shared(1)]), 2)).toBe("0 1");
  });

  test("and are not given at all while somebody holds all of one", () => {
    expect(gpusFor(nodeWith([shared(0)], ["gpu-0"]), 1)).toBe("InsufficientDevices");
  });

  test("say what each share takes", () => {
    const { inventory, usage } = nodeWith([shared(0)]);
    const choice = allocateOnNode(inventory, usage, [compiled(part("7Gi"))]);
    expect(choice).toEqual({
      claims: [{ devices: [{ request: "g", device: 0, share: new Map([["memory", parseNano("10Gi")]]) }] }],
    });
  });

  test("all of them are those that have room left", () => {
    const world = nodeWith([shared(0), shared(1)]);
    changeUsage(world.inventory, world.usage, 0, 1, new Map([["memory", parseNano("75Gi")]]));
    expect(choose(world, [claimSpec([exactly("g", 1, { allocationMode: "All" })])])).toEqual(["g=gpu-1"]);
  });
});

describe("administrators' access", () => {
  const admin = (name: string, more = {}) => exactly(name, 1, { adminAccess: true, ...more });

  test("is given to devices that are in use, and says so", () => {
    const { inventory, usage } = nodeWith([gpu(0)], ["gpu-0"]);
    const choice = allocateOnNode(inventory, usage, [compiled(claimSpec([admin("g")]))]);
    expect(choice).toEqual({ claims: [{ devices: [{ request: "g", device: 0, admin: true }] }] });
  });

  test("gives a device once to a claim, and to several claims", () => {
    expect(choose(nodeWith([gpu(0)]), [claimSpec([admin("a"), admin("b")])])).toMatchObject({
      reason: "InsufficientDevices",
    });
    expect(choose(nodeWith([gpu(0)]), [claimSpec([admin("a")]), claimSpec([admin("b")])])).toEqual([
      "a=gpu-0",
      "b=gpu-0",
    ]);
  });

  test("keeps a device from later requests of the same pod, as upstream", () => {
    const world = nodeWith([gpu(0)]);
    expect(choose(world, [claimSpec([admin("a")]), claimSpec([exactly("g", 1)])])).toMatchObject({
      reason: "InsufficientDevices",
    });
    expect(choose(world, [claimSpec([exactly("g", 1)]), claimSpec([admin("a")])])).toEqual(["g=gpu-0", "a=gpu-0"]);
  });

  test("needs the taints of a device tolerated", () => {
    const tainted = gpu(0, {}, { taints: [{ key: "k", effect: "NoSchedule" }] });
    expect(choose(nodeWith([tainted]), [claimSpec([admin("a")])])).toMatchObject({ reason: "NoMatchingDevice" });
  });
});

describe("what is not given", () => {
  const tainted = (effect: "None" | "NoSchedule" | "NoExecute", value?: string) => [
    gpu(0, {}, { taints: [{ key: "k", effect, ...(value === undefined ? {} : { value }) }] }),
  ];
  test.each([
    ["NoSchedule", [], "NoMatchingDevice"],
    ["NoExecute", [], "NoMatchingDevice"],
    ["None", [], "0"],
    ["NoSchedule", [{ operator: "Exists" }], "0"],
    ["NoSchedule", [{ key: "k", operator: "Exists" }], "0"],
    ["NoSchedule", [{ key: "other", operator: "Exists" }], "NoMatchingDevice"],
    ["NoSchedule", [{ key: "k", operator: "Equal", value: "v" }], "0"],
    ["NoSchedule", [{ key: "k", value: "v" }], "0"],
    ["NoSchedule", [{ key: "k", value: "w" }], "NoMatchingDevice"],
    ["NoSchedule", [{ key: "k", operator: "Exists", effect: "NoExecute" }], "NoMatchingDevice"],
    ["NoSchedule", [{ key: "k", operator: "Exists", effect: "NoSchedule" }], "0"],
  ] as const)("taint k=v:%s, tolerations %j: %s", (effect, tolerations, names) => {
    const choice = choose(nodeWith(tainted(effect, "v")), [
      claimSpec([exactly("g", 1, { tolerations: [...tolerations] })]),
    ]);
    expect(Array.isArray(choice) ? choice[0]!.replace("g=gpu-", "") : choice.reason).toBe(names);
  });

  test("devices with too little capacity, or without it", () => {
    const devices = [gpu(0, {}, { capacity: {} }), gpu(1, {}, { capacity: { memory: { value: "40Gi" } } }), gpu(2)];
    const atLeast = (memory: string) => claimSpec([exactly("g", 1, { capacity: { requests: { memory } } })]);
    expect(choose(nodeWith(devices), [atLeast("40Gi")])).toEqual(["g=gpu-1"]);
    expect(choose(nodeWith(devices), [atLeast("41Gi")])).toEqual(["g=gpu-2"]);
    expect(choose(nodeWith(devices), [atLeast("81Gi")])).toMatchObject({ reason: "NoMatchingDevice" });
    const named = claimSpec([exactly("g", 1, { capacity: { requests: { constructor: "1" } } })]);
    expect(choose(nodeWith(devices), [named])).toMatchObject({ reason: "NoMatchingDevice" });
  });

  test("devices of drivers that are not managed", () => {
    const slices = [sliceRecord("n", [gpu(0)], { driver: "gpu.example.com" }), sliceRecord("n", [gpu(0)])];
    const any = (count: number) => claimSpec([exactly("g", count, { deviceClassName: "any" })]);
    const world = nodeWith(slices);
    expect(choose(world, [any(1)])).toEqual(["g=gpu-0"]);
    expect(matchingDevices(world.inventory, compiled(any(1)), 0)).toEqual([1]);
    expect(choose(world, [any(2)])).toMatchObject({ reason: "InsufficientDevices", available: 1 });
    expect(choose(nodeWith(slices.slice(0, 1)), [any(1)])).toMatchObject({
      message: expect.stringContaining("1 selected of drivers that kllama does not manage"),
    });
  });

  test("a selector that fails on a device leaves it out, and is told when nothing is left", () => {
    const devices = [gpu(0), gpu(1, { size: 2 })];
    const spec = claimSpec([exactly("g", 1, {}, `device.attributes["${driver}"].size == 2`)]);
    expect(choose(nodeWith(devices), [spec])).toEqual(["g=gpu-1"]);
    expect(choose(nodeWith(devices.slice(0, 1)), [spec])).toMatchObject({
      reason: "NoMatchingDevice",
      message: expect.stringContaining(
        '"device.attributes[\\"gpu.kllama.ai\\"].size == 2": No such key: size (device gpu.kllama.ai/n/gpu-0)',
      ),
    });
  });

  test("the same device twice to one pod", () => {
    const one = claimSpec([exactly("g", 1, {}, `device.attributes["${driver}"].index == 0`)]);
    expect(choose(nodeWith(gpus(2)), [one, one])).toEqual({
      reason: "InsufficientDevices",
      message: "node n: 2 devices of DeviceClass gpu.kllama.ai are needed, 1 are free",
      needed: 2,
      available: 1,
      resource: "gpu.kllama.ai",
    });
  });
});

describe("the budget", () => {
  /** Each request alone fits, and pairs are distinct in one attribute and equal in another: only a search can tell. */
  const knot = () => {
    const devices = gpus(12, (index) => ({ a: index % 3, b: Math.floor(index / 3), c: (index * 7) % 5 }));
    const constraints = [
      { distinctAttribute: `${driver}/b` },
      { matchAttribute: `${driver}/a` },
      { distinctAttribute: `${driver}/c` },
    ];
    return { world: nodeWith(devices), spec: claimSpec([exactly("x", 3), exactly("y", 2)], constraints) };
  };

  test("that runs out is named", () => {
    const { world, spec } = knot();
    expect(choose(world, [spec], { budget: 2 })).toMatchObject({
      reason: "BudgetExceeded",
      message: "node n: no devices found within 2 trials; a larger budget may find some",
    });
    expect(choose(world, [spec])).toMatchObject({ reason: "InsufficientDevices" });
  });

  test("is not spent on devices that are alike", () => {
    const spec = claimSpec(
      [exactly("x", 10), exactly("y", 3, {}, `device.attributes["${driver}"].index >= 20`)],
      [
        { matchAttribute: `${driver}/type`, requests: ["x"] },
        { distinctAttribute: `${driver}/type`, requests: ["y"] },
      ],
    );
    expect(choose(nodeWith(gpus(24)), [spec])).toMatchObject({ reason: "InsufficientDevices" });
  });
});

test("candidates are remembered per inventory, and follow a changed class", () => {
  const world = nodeWith(gpus(2));
  expect(choose(world, [claimSpec([exactly("g", 1)])])).toEqual(["g=gpu-0"]);
  const second = deviceClass("gpu.kllama.ai", `device.attributes["${driver}"].index == 1`);
  const changed = compileClaim(claimSpec([exactly("g", 1)]), new Map([[second.name, second]]), new Set([driver]));
  if (isClaimProblem(changed)) throw new Error(changed.message);
  expect(allocateOnNode(world.inventory, world.usage, [changed])).toMatchObject({
    claims: [{ devices: [{ device: 1 }] }],
  });
});
