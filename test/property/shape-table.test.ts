import fc from "fast-check";
import { expect, test } from "vitest";
import { countSlots } from "../../src/gang/counting.ts";
import { fitCache, type ShapeTable } from "../../src/gang/fit.ts";
import { compareNodes } from "../../src/gang/score.ts";
import { roomFor, shapeOf, shapeRefusal } from "../../src/gang/shape.ts";
import type { ClusterModel } from "../../src/topology/model.ts";
import type { ClaimRecord } from "../../src/topology/records.ts";
import { exactly, gpus, migBoard, migSlices, nodeRecord, partition, podRecord, sliceRecord } from "../builders.ts";
import { allocatedClaim, clusterOf } from "../support/cluster.ts";

/**
 * What is kept between plans (slots per node, sums per domain, the order of nodes by tightness) against the same made
 * anew, node by node, without anything remembered.
 */
const nodeNames = ["n0", "n1", "n2", "n3", "n4", "n5", "n6"];
const profiles = ["1g", "3g"] as const;

const name = fc.constantFrom(...nodeNames);
const event = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant("claim" as const),
      name,
      claim: fc.integer({ min: 0, max: 9 }),
      devices: fc.uniqueArray(fc.integer({ min: 0, max: 7 }), { maxLength: 4 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("pod" as const),
      name,
      pod: fc.integer({ min: 0, max: 4 }),
      gone: fc.boolean(),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("node" as const),
      name,
      zone: fc.constantFrom("z1", "z2", ""),
      rack: fc.constantFrom("r1", "r2", ""),
      unschedulable: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("gone" as const), name }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("slice" as const),
      name,
      mig: fc.boolean(),
      islands: fc.integer({ min: 1, max: 4 }),
    }),
  },
);
type Event = typeof event extends fc.Arbitrary<infer T> ? T : never;

/** Islands are named by host, as real NVLink domains are. */
function setDevices(model: ClusterModel, node: string, mig: boolean, islands: number): void {
  for (const slice of ["slice", "a", "b"]) model.removeSlice(`${node}-${slice}`);
  if (mig) for (const slice of migSlices(node, [migBoard(0, [...profiles])])) model.upsertSlice(slice);
  else {
    const values = (gpu: number) => ({ nvlinkDomain: `${node}-${gpu % islands}`, uuid: `GPU-${node}-${gpu}` });
    model.upsertSlice(sliceRecord(node, gpus(8, values)));
  }
}

function apply(model: ClusterModel, each: Event): void {
  if (each.kind === "claim") {
    const names = each.devices.map((device) => (device < 6 ? `gpu-${device}` : `gpu-0-mig-1g-${device - 6}`));
    model.upsertClaim(allocatedClaim(`held-${each.claim}`, each.name, names, []));
  } else if (each.kind === "pod") {
    const pod = podRecord(`running-${each.pod}`, { nodeName: each.name, requests: { cpu: 20_000 } });
    if (each.gone) model.removePod(pod.uid);
    else model.upsertPod(pod);
  } else if (each.kind === "node") {
    const { zone, rack, unschedulable } = each;
    const labels = { ...(zone && { zone }), ...(rack && { rack }), "kubernetes.io/hostname": each.name };
    model.upsertNode(nodeRecord(each.name, { labels, unschedulable }));
  } else if (each.kind === "gone") model.removeNode(each.name);
  else setDevices(model, each.name, each.mig, each.islands);
}

const wishes = [
  { requests: [exactly("gpu", 2)], alone: [] },
  { requests: [exactly("gpu", 2)], alone: [{ attribute: "gpu.kllama.ai/nvlinkDomain", unlessLabels: ["zone"] }] },
  {
    requests: [exactly("gpu", 1, {}, 'device.attributes["gpu.kllama.ai"].uuid.startsWith("GPU-n1")')],
    alone: [],
  },
  { requests: [exactly("gpu", 1, {}, 'device.attributes["gpu.kllama.ai"].exists(name, name == "uuid")')], alone: [] },
  { requests: [partition("part", "1g"), partition("more", "3g")], alone: [] },
  { requests: [], alone: [] },
];

test("slots, sums and orders that are kept between plans equal those made anew", () => {
  fc.assert(
    fc.property(
      fc.array(event, { minLength: 1, maxLength: 30 }),
      fc.array(fc.boolean(), { minLength: 30 }),
      (events, look) => {
        const model = clusterOf(
          nodeNames.map((each, i) => ({ name: each, zone: `z${1 + (i % 2)}`, rack: `r${1 + (i % 3)}` })),
        );
        for (const [i, each] of nodeNames.entries()) setDevices(model, each, i === 6, 1 + (i % 2));
        for (const [i, each] of events.entries()) {
          apply(model, each);
          if (look[i] && i % 2 === 0) compareTables(model);
        }
        compareTables(model);
      },
    ),
    { numRuns: 60 },
  );
});

function compareTables(model: ClusterModel): void {
  const cache = fitCache(model);
  for (const [i, { requests, alone }] of wishes.entries()) {
    const claim = { name: `wish-${i}`, spec: { devices: { requests } } } as ClaimRecord;
    const shape = shapeOf(
      podRecord("wish", { requests: { cpu: 16_000 } }),
      requests.length > 0 ? [claim] : [],
      cache,
      alone,
      undefined,
    );
    if ("reason" in shape) throw new Error(shape.message);
    compareTable(model, cache.table(shape));
  }
}

function compareTable({ view }: ClusterModel, table: ShapeTable): void {
  const { shape } = table;
  const slots = view.nodes.map((node) => {
    if (!node || shapeRefusal(shape, node.record) !== undefined) return 0;
    const room = roomFor(shape.demands, node.record.allocatable, node.load.used);
    return countSlots(shape, node.record, room, view.inventory(node.index), () => view.usage(node.index));
  });
  expect([...table.slots.subarray(0, slots.length)]).toEqual(slots);
  expect(table.total).toBe(slots.reduce((sum, each) => sum + each, 0));
  const fabric = view.fabric("default")!;
  for (const level of fabric.nodeLevels) {
    const sums = table.sums(fabric, level.index, "slots");
    for (const domain of level.domains) {
      if (domain) expect(sums[domain.id]).toBe(domain.nodes.reduce((sum, node) => sum + slots[node]!, 0));
    }
  }
  for (const least of [1, 2, 3]) {
    const tight = compareNodes(fabric, table, (node) => slots[node]!);
    const bySpare = (a: number, b: number) => table.spare[a]! - table.spare[b]! || tight(a, b);
    const nodes = [...slots.keys()].filter((node) => slots[node]! >= least);
    const order = (first: "slots" | "spare") => {
      const lazy = table.tightest(fabric, { least, first });
      return nodes.map((_, position) => lazy.at(position));
    };
    expect(order("slots")).toEqual(nodes.toSorted(tight));
    expect(order("spare")).toEqual(nodes.toSorted(bySpare));
    expect(table.tightest(fabric, { least, first: "slots" }).at(nodes.length)).toBeUndefined();
  }
}
