import type {
  Device,
  DeviceRequest,
  DeviceTaintRule,
  ResourceClaim,
  ResourceSlice,
} from "../../../src/api/kubernetes.ts";
import { classes } from "./claims.ts";
import type { AllocationQuestion, Answer } from "./judge.ts";
import type { OurAnswer } from "./ours.ts";
import { gpuDriver, nicDriver, nodeLabels, nodeName } from "./pools.ts";

/** Where kllama means to answer otherwise than Kubernetes' allocator; everything else has to agree. */
export interface Difference {
  readonly name: string;
  readonly reason: string;
  /** Does it explain why the verdicts of this case differ? */
  explains(question: AllocationQuestion, ours: OurAnswer, theirs: Answer): boolean;
}

export const differences: readonly Difference[] = [
  {
    name: "a selector that fails on a device",
    reason:
      "Upstream gives up the whole pod when its search meets a device on which a selector fails, so its verdict hangs on the order of devices. kllama leaves that device out, and tells the error when no place is found.",
    explains: (_, ours, { verdict, message = "" }) =>
      ours.verdict === "allocated" && verdict === "error" && message.includes("CEL runtime error"),
  },
  {
    name: "all devices, where a constraint excludes one",
    reason:
      "Upstream gives up the whole pod when a device of allocationMode All breaks a constraint, also when the next alternative of the request or another choice for an earlier one would do. kllama goes on.",
    explains: (_, ours, { verdict, message = "" }) =>
      ours.verdict === "allocated" &&
      verdict === "error" &&
      message.includes("claim constraint would not be satisfied"),
  },
  {
    name: "distinct values within one request",
    reason:
      "Upstream remembers one value per request and forgets those of the request's other devices, so a request for three devices may get two with the same value. kllama keeps what the API promises: all of them differ.",
    explains: ({ claims, slices }, ours, theirs) =>
      ours.verdict === "refused" &&
      theirs.verdict === "allocated" &&
      claims.some((claim, index) => repeatsValue(claim, theirs.allocations![index]!, slices)),
  },
];

function repeatsValue(
  { spec }: ResourceClaim,
  allocation: NonNullable<Answer["allocations"]>[number],
  slices: readonly ResourceSlice[],
): boolean {
  return (spec.devices?.constraints ?? []).some(({ distinctAttribute, requests = [] }) => {
    if (distinctAttribute === undefined) return false;
    const covered = (allocation.devices?.results ?? []).filter(
      ({ request }) => requests.length === 0 || requests.includes(request) || requests.includes(request.split("/")[0]!),
    );
    const values = covered.map((result) => JSON.stringify(attributeOf(result, distinctAttribute, slices)));
    return new Set(values).size < values.length;
  });
}

function attributeOf(
  { driver, pool, device }: { driver: string; pool: string; device: string },
  attribute: string,
  slices: readonly ResourceSlice[],
) {
  const own = slices.filter(({ spec }) => spec.driver === driver && spec.pool.name === pool);
  const found = own.flatMap(({ spec }) => spec.devices ?? []).find(({ name }) => name === device);
  return found?.attributes?.[attribute] ?? found?.attributes?.[attribute.replace(`${driver}/`, "")];
}

/** Differences that generated cases do not show: each with a case, and both verdicts. */
export interface FixedDifference {
  readonly name: string;
  readonly reason: string;
  readonly question: AllocationQuestion;
  readonly ours: OurAnswer["verdict"];
  readonly theirs: string;
}

const node = { metadata: { name: nodeName, uid: "node-uid", labels: nodeLabels } };

function slice(
  name: string,
  driver: string,
  pool: string,
  spec: Partial<ResourceSlice["spec"]>,
  count = 1,
): ResourceSlice {
  const common = { driver, pool: { name: pool, generation: 1, resourceSliceCount: count }, nodeName };
  return { metadata: { name }, spec: { ...common, ...spec } };
}

function partition(name: string, counterSet: string, more: Partial<Device> = {}): Device {
  return { name, consumesCounters: [{ counterSet, counters: { units: { value: "1" } } }], ...more };
}

function board(name: string, units: number) {
  return { sharedCounters: [{ name, counters: { units: { value: `${units}` } } }] };
}

function claim(name: string, ...requests: DeviceRequest[]): ResourceClaim {
  return { metadata: { name, namespace: "team", uid: name }, spec: { devices: { requests } } };
}

function exactly(name: string, more: Partial<NonNullable<DeviceRequest["exactly"]>> = {}): DeviceRequest {
  return { name, exactly: { deviceClassName: "any", allocationMode: "ExactCount", count: 1, ...more } };
}

function holding(name: string, driver: string, pool: string, device: string, more: object = {}): ResourceClaim {
  const results = [{ request: "r", driver, pool, device, ...more }];
  return { ...claim(name, exactly("r")), status: { allocation: { devices: { results } } } };
}

function question(
  slices: ResourceSlice[],
  claims: ResourceClaim[],
  allocated: ResourceClaim[] = [],
  rules: DeviceTaintRule[] = [],
): AllocationQuestion {
  return { node, slices, rules, classes, claims, allocated, timeoutMs: 2_000 };
}

const twoDrivers = [gpuDriver, nicDriver].flatMap((driver) => [
  slice(`${driver}-a`, driver, nodeName, board("board", driver === gpuDriver ? 4 : 1), 2),
  slice(`${driver}-b`, driver, nodeName, { devices: [partition("one", "board"), partition("two", "board")] }, 2),
]);

const overdrawn = [
  slice("a", gpuDriver, "p", { sharedCounters: [...board("x", 1).sharedCounters, ...board("y", 1).sharedCounters] }, 2),
  slice("b", gpuDriver, "p", { devices: [partition("x1", "x"), partition("x2", "x"), partition("y1", "y")] }, 2),
];

const nameless = [
  slice("a", nicDriver, "p", board("board", 1), 2),
  slice("b", nicDriver, "p", { devices: [partition("nic", "board", { allowMultipleAllocations: true })] }, 2),
];

export const fixedDifferences: readonly FixedDifference[] = [
  {
    name: "a DeviceTaintRule without a selector",
    reason:
      "By the API such a rule selects nothing. kube-scheduler of 1.36 has it taint every device; that of 1.37, and the controller that evicts in both, do as the API says, and so does kllama.",
    question: question(
      [slice("a", gpuDriver, "p", { devices: [{ name: "gpu" }] })],
      [claim("c", exactly("r"))],
      [],
      [{ metadata: { name: "rule" }, spec: { taint: { key: "k", effect: "NoSchedule" } } }],
    ),
    ours: "allocated",
    theirs: "refused",
  },
  {
    name: "counters of two drivers whose pools have the same name",
    reason:
      "Upstream keeps counters by the name of the pool without the driver's, so that the second driver's are checked against the first's: a board with one unit gives two. Nearly every driver names its pool after the node. kllama keeps them apart.",
    question: question(twoDrivers, [
      claim("c", exactly("gpu", { deviceClassName: "any" }), exactly("nics", { deviceClassName: "nic", count: 2 })),
    ]),
    ours: "refused",
    theirs: "allocated",
  },
  {
    name: "a board that is overdrawn beside one that is not",
    reason:
      "When more is held of one counter than there is, which only a fault can bring about, upstream gives nothing of the whole pool that takes counters. kllama refuses only what takes the overdrawn counter.",
    question: question(
      overdrawn,
      [claim("c", exactly("y"))],
      [holding("h1", gpuDriver, "p", "x1"), holding("h2", gpuDriver, "p", "x2")],
    ),
    ours: "allocated",
    theirs: "refused",
  },
  {
    name: "all devices, while a pool with counters of another node is being updated",
    reason:
      "Upstream takes a slice with counters to concern every node, so that one driver's restart anywhere stops every request for all devices everywhere. kllama minds the pools that reach the node.",
    question: question(
      [
        slice("a", gpuDriver, nodeName, { devices: [{ name: "gpu" }] }),
        slice("b", gpuDriver, "other", { nodeName: "node-2", ...board("board", 1) }, 2),
      ],
      [claim("c", exactly("r", { allocationMode: "All" }))],
    ),
    ours: "allocated",
    theirs: "error",
  },
  {
    name: "slices that disagree about how many they are",
    reason:
      "Upstream believes the slice that it happens to see first. kllama gives nothing of the pool until its driver corrects it.",
    question: question(
      [slice("a", gpuDriver, "p", { devices: [{ name: "one" }] }, 2), slice("b", gpuDriver, "p", { devices: [] }, 3)],
      [claim("c", exactly("r"))],
    ),
    ours: "refused",
    theirs: "allocated",
  },
  {
    name: "a second share of a device that has counters and no capacity",
    reason:
      "Upstream tells by the consumed capacity that a device is shared already, and asks for its counters again when there is none. For kllama the first share takes the counters for all.",
    question: question(
      nameless,
      [claim("c", exactly("r"))],
      [holding("h", nicDriver, "p", "nic", { shareID: "11111111-1111-8111-8111-111111111111" })],
    ),
    ours: "allocated",
    theirs: "refused",
  },
];
