import type { ResourceClaim } from "../api/kubernetes.ts";
import { cdiSpec } from "../dra/driver/cdi.ts";
import type { ClaimStore } from "../dra/driver/claim-store.ts";
import type { ClaimReference, PrepareAnswer, UnprepareAnswer } from "../dra/driver/grpc.ts";
import type { DeviceLosses, Gpu } from "../dra/driver/inventory.ts";
import type { Boards, Machine } from "../dra/driver/machine.ts";
import { createPreparation, type Preparation } from "../dra/driver/preparation.ts";
import type { PreparedClaim } from "../dra/driver/prepared-claim.ts";
import { type BoardState, simulatedBoards } from "./boards.ts";

/** The drivers of all simulated nodes: the real one's code, over a checkpoint and boards in memory. */
export interface NodeDrivers {
  /** Answers by UID. The driver reads the claims as they are given here. */
  prepare(node: string, claims: readonly ResourceClaim[]): Promise<ReadonlyMap<string, PrepareAnswer>>;
  /** Answers by UID. */
  unprepare(node: string, claims: readonly ResourceClaim[]): Promise<ReadonlyMap<string, UnprepareAnswer>>;
  /** What stands on the node's boards although no claim that the driver holds accounts for it; empty when all is well. */
  leftOver(node: string): readonly string[];
  /** Partitions that stand on all boards. */
  partitions(): number;
}

export interface NodeDriversOptions {
  /** Asked for once per driver. */
  gpus(node: string): readonly Gpu[];
  losses(node: string): DeviceLosses;
  /** After a claim was prepared anew. */
  onPrepared(claim: PreparedClaim): void;
}

interface NodeDriver {
  preparation: Preparation;
  store: ClaimStore;
  boards: BoardState;
  /** Claims by namespace and name, one for each call that has yet to read it. */
  unread: Map<string, ResourceClaim[]>;
  callsUnderWay: number;
}

/** These kubelets always wait for the answer. */
const awaited = { cancelled: false, once: () => undefined };

/** A node has a driver from its first claim to its last: the other nodes cost nothing. */
export function createNodeDrivers(options: NodeDriversOptions): NodeDrivers {
  const drivers = new Map<string, NodeDriver>();

  return {
    prepare: (node, claims) =>
      call(node, async ({ preparation, unread }) => {
        for (const claim of claims) unread.set(nameOf(claim), [...(unread.get(nameOf(claim)) ?? []), claim]);
        const answers = await preparation.prepare(claims.map(referenceOf), awaited);
        for (const claim of claims) {
          const others = unread.get(nameOf(claim))?.filter((other) => other !== claim) ?? [];
          if (others.length === 0) unread.delete(nameOf(claim));
          else unread.set(nameOf(claim), others);
        }
        return new Map(Object.entries(answers));
      }),
    unprepare: (node, claims) =>
      call(node, async ({ preparation }) => {
        return new Map(Object.entries(await preparation.unprepare(claims.map(referenceOf), awaited)));
      }),
    leftOver(node) {
      const driver = drivers.get(node);
      return driver === undefined || driver.callsUnderWay > 0 ? [] : traces(driver);
    },
    partitions: () => [...drivers.values()].reduce((sum, { boards }) => sum + boards.instances.length, 0),
  };

  async function call<T>(node: string, work: (driver: NodeDriver) => Promise<T>): Promise<T> {
    const driver = drivers.get(node) ?? openDriver(node, options);
    drivers.set(node, driver);
    driver.callsUnderWay += 1;
    try {
      return await work(driver);
    } finally {
      driver.callsUnderWay -= 1;
      const isIdle = driver.callsUnderWay === 0 && driver.store.claims.size === 0;
      // What is left over keeps it, and can be asked for.
      if (isIdle && traces(driver).length === 0) drivers.delete(node);
    }
  }
}

function openDriver(node: string, options: NodeDriversOptions): NodeDriver {
  const gpus = options.gpus(node);
  const store = memoryStore();
  const unread: NodeDriver["unread"] = new Map();
  const machine: Boards & Pick<Machine, "inventory"> = {
    inventory: () => ({ gpus, losses: options.losses(node) }),
    ...simulatedBoards(gpus, {
      read: async () => driver.boards,
      async update(_, change) {
        driver.boards = change(driver.boards);
      },
    }),
  };
  const preparation = createPreparation({
    ...{ pool: node, machine, store },
    readClaim: async (namespace, name) => unread.get(`${namespace}/${name}`)?.shift(),
    onPrepared: options.onPrepared,
  });
  const driver: NodeDriver = { preparation, store, boards: { instances: [] }, unread, callsUnderWay: 0 };
  return driver;
}

/** Nothing outlives the process, so the claims themselves are the checkpoint. Specs are made and dropped: no container reads them. */
function memoryStore(): ClaimStore {
  return {
    claims: new Map(),
    save: async () => undefined,
    writeSpec: async (claim) => void cdiSpec(claim),
    restoreSpec: async (claim) => void cdiSpec(claim),
    removeSpec: async () => undefined,
    reload: async () => undefined,
  };
}

/** What claims left behind on boards. */
function traces({ boards, store }: NodeDriver): string[] {
  const held = [...store.claims.values()].flatMap(({ devices }) => devices);
  const { instances, timeSlices = {} } = boards;
  const strays = instances.filter(
    ({ gpu, profileId, start }) =>
      !held.some((d) => d.gpu.uuid === gpu && d.partition?.profileId === profileId && d.partition.start === start),
  );
  const slices = Object.keys(timeSlices).filter(
    (uuid) => !held.some(({ gpu, timeSlice }) => gpu.uuid === uuid && timeSlice !== undefined),
  );
  return [
    ...strays.map(({ gpu, id }) => `GPU instance ${id} of ${gpu}`),
    ...slices.map((gpu) => `a time slice of ${gpu}`),
  ];
}

function referenceOf({ metadata }: ResourceClaim): ClaimReference {
  return { namespace: metadata.namespace ?? "", name: metadata.name, uid: metadata.uid ?? "" };
}

function nameOf({ metadata }: ResourceClaim): string {
  return `${metadata.namespace}/${metadata.name}`;
}
