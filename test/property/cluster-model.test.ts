import fc from "fast-check";
import { expect, test } from "vitest";
import { assembleInventory } from "../../src/topology/inventory.ts";
import { type ClusterModel, createClusterModel, type HeldPod } from "../../src/topology/model.ts";
import type { ClaimRecord, NodeRecord, PodRecord, SliceRecord, TaintRuleRecord } from "../../src/topology/records.ts";
import { driver, migBoard, migSlices, nodeRecord, podRecord } from "../builders.ts";
import { allocatedClaim } from "../support/cluster.ts";

/**
 * The model against a naive one that keeps the objects themselves and recomputes everything. Names come from small
 * sets, so that events repeat, overtake each other and speak of objects that are not there.
 */
const nodeNames = ["n0", "n1"];
const claimNames = ["c0", "c1", "c2"];
const podNames = ["p0", "p1", "p2"];
const devices = migBoard(0, ["1g", "3g"]).devices.map(({ name }) => name);

interface Naive {
  nodes: Map<string, NodeRecord>;
  slices: Map<string, SliceRecord>;
  rules: Map<string, TaintRuleRecord>;
  pods: Map<string, PodRecord>;
  claims: Map<string, ClaimRecord>;
  holds: Map<string, readonly HeldPod[]>;
  /** Pod UID → devices it was seen to run with. */
  opened: Map<string, Set<string>>;
}

type Event = (model: ClusterModel, naive: Naive) => void;

const deviceList = fc.uniqueArray(fc.constantFrom(...devices), { maxLength: 3 });
const node = fc.constantFrom(...nodeNames);

const upsertNode = fc.record({ name: node, cpu: fc.integer({ min: 1, max: 3 }) }).map(({ name, cpu }): Event => {
  const record = nodeRecord(name, { allocatable: { cpu: cpu * 1000, pods: 10 } });
  return (model, naive) => {
    model.upsertNode(record);
    naive.nodes.set(name, record);
  };
});
const removeNode = node.map(
  (name): Event =>
    (model, naive) => {
      model.removeNode(name);
      naive.nodes.delete(name);
    },
);
const sliceName = fc.tuple(node, fc.integer({ min: 0, max: 1 }), fc.integer({ min: 1, max: 2 }));
const upsertSlice = sliceName.map(([name, part, generation]): Event => {
  const record = { ...migSlices(name, [migBoard(0, ["1g", "3g"])])[part]!, generation };
  return (model, naive) => {
    model.upsertSlice(record);
    naive.slices.set(record.name, record);
  };
});
const removeSlice = sliceName.map(
  ([name, part]): Event =>
    (model, naive) => {
      const key = `${name}-${"ab"[part]}`;
      model.removeSlice(key);
      naive.slices.delete(key);
    },
);
const ruleName = fc.constantFrom("r0", "r1");
const selector = fc.record(
  {
    driver: fc.constantFrom(driver, "net.example.com"),
    pool: node,
    device: fc.constantFrom(...devices),
  },
  { requiredKeys: [] },
);
const upsertRule = fc
  .record({ name: ruleName, selector: fc.option(selector, { nil: undefined }) })
  .map((sample): Event => {
    const taint = { key: sample.name, effect: "NoSchedule" as const };
    const record: TaintRuleRecord = { name: sample.name, taint, ...(sample.selector && { selector: sample.selector }) };
    return (model, naive) => {
      model.upsertTaintRule(record);
      naive.rules.set(record.name, record);
    };
  });
const removeRule = ruleName.map(
  (name): Event =>
    (model, naive) => {
      model.removeTaintRule(name);
      naive.rules.delete(name);
    },
);
const claimEvent = fc
  .record({
    name: fc.constantFrom(...claimNames),
    recreated: fc.boolean(),
    node,
    held: fc.option(deviceList, { nil: undefined }),
    users: fc.subarray(podNames),
  })
  .map((sample): Event => {
    const record = {
      ...allocatedClaim(
        sample.name,
        sample.node,
        sample.held ?? [],
        sample.users.map((pod) => `pod-uid-${pod}`),
      ),
      uid: `${sample.name}-${sample.recreated ? 2 : 1}`,
    };
    const { allocation, ...unallocated } = record;
    const claim: ClaimRecord = sample.held ? { ...unallocated, allocation: allocation! } : unallocated;
    return (model, naive) => {
      model.upsertClaim(claim);
      naive.claims.delete(claim.uid);
      naive.claims.set(claim.uid, claim);
      for (const pod of naive.pods.values()) open(naive, pod);
    };
  });
const removeClaim = fc.tuple(fc.constantFrom(...claimNames), fc.constantFrom(1, 2)).map(([name, i]): Event => {
  return (model, naive) => {
    model.removeClaim(`${name}-${i}`);
    naive.claims.delete(`${name}-${i}`);
  };
});
const podEvent = fc
  .record({
    name: fc.constantFrom(...podNames),
    node: fc.option(node, { nil: undefined }),
    terminal: fc.boolean(),
    cpu: fc.integer({ min: 0, max: 2 }),
    claims: fc.subarray(claimNames),
  })
  .map(({ name, node: nodeName, terminal, cpu, claims }): Event => {
    const pod = podRecord(name, {
      terminal,
      requests: { cpu: cpu * 1000 },
      claims: claims.map((claimName) => ({ name: claimName, claimName })),
      ...(nodeName && { nodeName }),
    });
    return (model, naive) => {
      model.upsertPod(pod);
      naive.pods.set(pod.uid, pod);
      if (runs(pod)) open(naive, pod);
      else naive.opened.delete(pod.uid);
    };
  });
const removePod = fc.constantFrom(...podNames).map(
  (name): Event =>
    (model, naive) => {
      model.removePod(`pod-uid-${name}`);
      naive.pods.delete(`pod-uid-${name}`);
      naive.opened.delete(`pod-uid-${name}`);
    },
);
const heldPod = fc
  .record({ pod: fc.constantFrom(...podNames), node, devices: deviceList, cpu: fc.integer({ min: 0, max: 2 }) })
  .map((sample): Omit<HeldPod, "placed"> & { placed: Omit<HeldPod["placed"], "index"> } => ({
    placed: {
      pod: sample.pod,
      podSet: "w",
      node: sample.node,
      claims: [
        {
          claim: "c",
          reference: "c",
          devices: sample.devices.map((device) => ({ request: "r", driver, pool: sample.node, device })),
        },
      ],
    },
    requests: { cpu: sample.cpu * 1000 },
  }));
const hold = fc
  .tuple(fc.constantFrom("team/g", "team/h"), fc.array(heldPod, { maxLength: 3 }))
  .map(([key, pods]): Event => {
    const held = pods.map((each, index): HeldPod => ({ ...each, placed: { ...each.placed, index } }));
    return (model, naive) => {
      model.hold(key, "team", held);
      naive.holds.set(key, held);
    };
  });
const release = fc.constantFrom("team/g", "team/h").map(
  (key): Event =>
    (model, naive) => {
      model.release(key);
      naive.holds.delete(key);
    },
);

const event = fc.oneof(
  upsertNode,
  removeNode,
  upsertSlice,
  upsertSlice,
  removeSlice,
  upsertRule,
  upsertRule,
  removeRule,
  claimEvent,
  claimEvent,
  removeClaim,
  podEvent,
  podEvent,
  removePod,
  hold,
  release,
);

function runs(pod: PodRecord): boolean {
  return pod.nodeName !== undefined && !pod.terminal;
}

/** The claim of a name is the one seen last. */
function claimOf(naive: Naive, name: string): ClaimRecord | undefined {
  return [...naive.claims.values()].findLast((claim) => claim.name === name);
}

function allocated(claim: ClaimRecord | undefined): string[] {
  return (claim?.allocation?.devices?.results ?? []).map(({ pool, device }) => `${pool}/${device}`);
}

/** A running pod keeps every device with which it was seen to run. */
function open(naive: Naive, pod: PodRecord): void {
  if (!runs(pod)) return;
  const opened = naive.opened.get(pod.uid) ?? new Set();
  for (const { claimName } of pod.claims) {
    const claim = claimOf(naive, claimName!);
    if (claim?.reservedFor.some(({ uid }) => uid === pod.uid))
      for (const device of allocated(claim)) opened.add(device);
  }
  naive.opened.set(pod.uid, opened);
}

/** Names of the rules that select the device, which each taints with its own. */
function rulesOf(naive: Naive, pool: string, device: string): string[] {
  const selecting = [...naive.rules.values()].filter(({ selector: wanted }) => {
    const actual = { driver, pool, device };
    return wanted !== undefined && Object.entries(wanted).every(([key, value]) => actual[key as "pool"] === value);
  });
  return selecting.map(({ name }) => name).sort();
}

function holdersOf(naive: Naive, device: string): string[] {
  const holders: string[] = [];
  for (const claim of naive.claims.values()) if (allocated(claim).includes(device)) holders.push(`claim:${claim.uid}`);
  for (const [uid, opened] of naive.opened) if (opened.has(device)) holders.push(`pod:${uid}`);
  for (const [key, pods] of naive.holds) {
    const held = pods.flatMap(({ placed }) => placed.claims.flatMap((claim) => claim.devices));
    if (held.some(({ pool, device: name }) => `${pool}/${name}` === device)) holders.push(`hold:${key}`);
  }
  return holders.sort();
}

function loadOf(naive: Naive, nodeName: string): Record<string, number> {
  const bound = [...naive.pods.values()].filter((pod) => runs(pod) && pod.nodeName === nodeName);
  const held = [...naive.holds.values()]
    .flat()
    .filter(({ placed }) => placed.node === nodeName && !bound.some(({ name }) => name === placed.pod));
  const cpu = [...bound, ...held].reduce((sum, { requests }) => sum + requests["cpu"]!, 0);
  const pods = bound.length + held.length;
  return { ...(cpu > 0 && { cpu }), ...(pods > 0 && { pods }) };
}

function compare(model: ClusterModel, naive: Naive): void {
  for (const name of nodeNames) {
    const index = model.view.indexOf(name);
    expect(index !== undefined, `node ${name}`).toBe(naive.nodes.has(name));
    for (const device of devices) {
      expect(model.holdersOf(driver, name, device), `${name}/${device}`).toEqual(holdersOf(naive, `${name}/${device}`));
    }
    if (index === undefined) continue;
    expect(model.view.nodes[index]!.load.used, `load of ${name}`).toEqual(loadOf(naive, name));
    const slices = [...naive.slices.values()].filter(({ nodeName }) => nodeName === name);
    const fresh = assembleInventory(naive.nodes.get(name)!, slices);
    const inventory = model.view.inventory(index);
    expect(inventory.devices.map(({ key }) => key)).toEqual(fresh.devices.map(({ key }) => key));
    const usage = model.view.usage(index);
    const counters = new Array<number>(inventory.counterCapacity.length).fill(0);
    for (const entry of inventory.devices) {
      const taints = (entry.device.taints ?? []).map(({ key }) => key);
      expect(taints, `taints of ${entry.key}`).toEqual(rulesOf(naive, name, entry.name));
      const held = holdersOf(naive, `${name}/${entry.name}`).length > 0;
      expect(usage.used[entry.index], `${entry.key} is free only without holders`).toBe(held ? 1 : 0);
      if (held) for (const { counter, amount } of entry.counters) counters[counter]! += amount;
    }
    expect([...usage.counterUsed]).toEqual(counters);
  }
}

/** Both nodes with their devices: what most events are about. */
function start(): { model: ClusterModel; naive: Naive } {
  const model = createClusterModel({ managedDrivers: [driver] });
  const naive: Naive = {
    nodes: new Map(),
    slices: new Map(),
    rules: new Map(),
    pods: new Map(),
    claims: new Map(),
    holds: new Map(),
    opened: new Map(),
  };
  for (const name of nodeNames) {
    const record = nodeRecord(name, { allocatable: { cpu: 2000, pods: 10 } });
    model.upsertNode(record);
    naive.nodes.set(name, record);
    for (const slice of migSlices(name, [migBoard(0, ["1g", "3g"])])) {
      model.upsertSlice(slice);
      naive.slices.set(slice.name, slice);
    }
  }
  return { model, naive };
}

test("after any events the model equals a recomputation, and no device is free while it has a holder", () => {
  fc.assert(
    fc.property(fc.array(event, { minLength: 1, maxLength: 40 }), (events) => {
      const { model, naive } = start();
      for (const each of events) {
        each(model, naive);
        compare(model, naive);
      }
    }),
    { numRuns: 300 },
  );
});

test("an event that repeats changes nothing, not even a version", () => {
  fc.assert(
    fc.property(fc.array(event, { minLength: 1, maxLength: 20 }), (events) => {
      const { model, naive } = start();
      for (const each of events) {
        each(model, naive);
        const before = [model.version, model.capacityVersion];
        each(model, naive);
        expect([model.version, model.capacityVersion]).toEqual(before);
      }
    }),
    { numRuns: 200 },
  );
});

test("capacityVersion grows whenever a device or a resource becomes free", () => {
  const free = (model: ClusterModel) =>
    nodeNames.flatMap((name) => {
      const index = model.view.indexOf(name);
      if (index === undefined) return [];
      const { record, load } = model.view.nodes[index]!;
      const cpu = record.allocatable["cpu"]! - (load.used["cpu"] ?? 0);
      const unused = model.view
        .inventory(index)
        .devices.filter(({ index: device }) => model.view.usage(index).used[device] === 0);
      return [`${name} cpu ${cpu}`, ...unused.map(({ key, device }) => `${key} ${device.taints?.length ?? 0}`)];
    });
  fc.assert(
    fc.property(fc.array(event, { minLength: 1, maxLength: 40 }), (events) => {
      const { model, naive } = start();
      for (const each of events) {
        const before = free(model);
        const { capacityVersion } = model;
        each(model, naive);
        const more = free(model).filter((item) => !before.includes(item) && !isLessCpu(item, before));
        if (more.length > 0) expect(model.capacityVersion, more.join()).toBeGreaterThan(capacityVersion);
      }
    }),
    { numRuns: 200 },
  );
});

/** `n0 cpu 500` is no gain where there was `n0 cpu 1000`. */
function isLessCpu(item: string, before: readonly string[]): boolean {
  const [node_, kind, amount] = item.split(" ");
  if (kind !== "cpu") return false;
  const old = before.find((each) => each.startsWith(`${node_} cpu `));
  return old !== undefined && Number(old.split(" ")[2]) > Number(amount);
}
