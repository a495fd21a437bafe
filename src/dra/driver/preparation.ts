import type { ResourceClaim } from "../../api/kubernetes.ts";
import { type BatchQueue, createBatchQueue } from "./batch-queue.ts";
import { createBoardUsers } from "./board-users.ts";
import { cdiDeviceId } from "./cdi.ts";
import { allocatedDevices, ClaimError, type DeviceLookup, stillHolds } from "./claim.ts";
import { type ClaimCalls, type ReadClaim, readClaims, uniqueClaims, waitingFor } from "./claim-reads.ts";
import { Abandoned, always, createClaimSteps, type GoOn, type OnForgotten } from "./claim-steps.ts";
import type { ClaimStore } from "./claim-store.ts";
import type { CallState } from "./dra-server.ts";
import type { FileLock } from "./file-lock.ts";
import type { ClaimReference, PrepareAnswer, PreparedDeviceMessage, UnprepareAnswer } from "./grpc.ts";
import { deviceTable } from "./inventory.ts";
import type { Boards, Machine } from "./machine.ts";
import { type PreparedClaim, type PreparedDevice, preparedDevice } from "./prepared-claim.ts";

/**
 * Prepares and unprepares claims, one batch after another. Before something exists it stands in the checkpoint; after it
 * is gone it leaves the checkpoint. So whoever reads the checkpoint knows everything that may exist.
 *
 * When nobody waits any more for what is done to a claim, no further step of it begins: it stays in the checkpoint as it
 * stands, `Started` or `Aborted`, as if the process had been killed there, and whoever comes next undoes it.
 */
export interface Preparation {
  prepare(claims: readonly ClaimReference[], call: CallState): Promise<Record<string, PrepareAnswer>>;
  unprepare(claims: readonly ClaimReference[], call: CallState): Promise<Record<string, UnprepareAnswer>>;
  /** Runs `work` while nothing is being prepared or unprepared. */
  exclusively(work: () => Promise<void>): Promise<void>;
  /** Undoes claims: their partitions, their specs, their entries. Only inside `exclusively`. */
  undo(claims: readonly PreparedClaim[]): Promise<ReadonlyMap<string, Error>>;
  /** Resolves when nothing is under way. */
  idle(): Promise<void>;
}

export interface PreparationOptions {
  /** The node's name names the pool. */
  pool: string;
  machine: Boards & Pick<Machine, "inventory">;
  store: ClaimStore;
  readClaim: ReadClaim;
  /** Held while a batch is worked on, if another process of this driver may be at work, too. */
  lock?: FileLock;
  /** After the answer is decided. */
  onPrepared(claim: PreparedClaim): void;
  onForgotten?: OnForgotten;
}

interface PrepareJob extends ClaimCalls {
  type: "prepare";
  done(answers: ReadonlyMap<string, PrepareAnswer>): void;
}
interface UnprepareJob extends ClaimCalls {
  type: "unprepare";
  done(answers: ReadonlyMap<string, UnprepareAnswer>): void;
}
interface ExclusiveJob {
  type: "exclusive";
  work(): Promise<void>;
  fail(error: Error): void;
}
type Job = PrepareJob | UnprepareJob | ExclusiveJob;

export function createPreparation(options: PreparationOptions): Preparation {
  const { machine, store } = options;
  const { begin, complete, undo } = createClaimSteps(machine, store, options.onForgotten ?? (() => undefined));
  const queue: BatchQueue<Job> = createBatchQueue(run, (a, b) => a.type === b.type && a.type !== "exclusive");

  return {
    prepare: (claims, call) => answered((done) => queue.push({ type: "prepare", claims, call, done }), claims),
    unprepare: (claims, call) => answered((done) => queue.push({ type: "unprepare", claims, call, done }), claims),
    exclusively: (work) =>
      new Promise<void>((resolve, reject) => {
        queue.push({ type: "exclusive", work: () => work().then(resolve, reject), fail: reject });
      }),
    undo: (claims) => undo(claims, always),
    idle: queue.idle,
  };

  async function run(batch: readonly Job[]): Promise<void> {
    if (options.lock === undefined) return runLocked(batch);
    try {
      await options.lock.hold(async () => {
        await store.reload();
        await runLocked(batch);
      });
    } catch (error) {
      for (const job of batch) refuse(job, error as Error);
    }
  }

  function refuse(job: Job, error: Error): void {
    if (job.type === "exclusive") job.fail(error);
    else if (job.type === "unprepare") job.done(new Map(job.claims.map(({ uid }) => [uid, { error: error.message }])));
    else job.done(new Map(job.claims.map(({ uid }) => [uid, { devices: [], error: error.message }])));
  }

  async function runLocked(jobs: readonly Job[]): Promise<void> {
    const isOver = (job: Job): boolean => job.type !== "exclusive" && job.call.cancelled;
    const [over, batch] = [jobs.filter(isOver), jobs.filter((job) => !isOver(job))];
    for (const job of over) refuse(job, new Abandoned());
    const prepares = batch.filter((job) => job.type === "prepare");
    if (prepares.length > 0) await prepareBatch(prepares);
    const unprepares = batch.filter((job) => job.type === "unprepare");
    if (unprepares.length > 0) await unprepareBatch(unprepares);
    for (const job of batch) if (job.type === "exclusive") await job.work();
  }

  async function prepareBatch(jobs: readonly PrepareJob[]): Promise<void> {
    const answers = new Map<string, PrepareAnswer>();
    const fail = (uid: string, error: unknown): void => void answers.set(uid, { devices: [], error: messageOf(error) });
    const goOn = whileAwaited(jobs);
    const read = await readClaims(jobs, options.readClaim);
    const inventory = machine.inventory();
    const lookup = { ...inventory, devices: deviceTable(inventory.gpus) };
    const users = createBoardUsers(store.claims.values());
    const begun: PreparedClaim[] = [];
    for (const { wanted, claim, error } of read) {
      try {
        goOn(wanted.uid);
        if (claim === undefined) throw error;
        if (claim.metadata.deletionTimestamp !== undefined && !store.claims.has(wanted.uid)) {
          throw new ClaimError(`claim ${wanted.namespace}/${wanted.name}: is being deleted`);
        }
        const entry = await begin(wanted, devicesOf(wanted, claim, lookup), users, goOn);
        if (entry.state === "Started") begun.push(entry);
        else answers.set(wanted.uid, answerOf(entry));
      } catch (failure) {
        fail(wanted.uid, failure);
      }
    }
    if (begun.length > 0) for (const [uid, failure] of await complete(begun, goOn)) fail(uid, failure);
    for (const entry of begun) {
      if (answers.has(entry.uid)) continue;
      answers.set(entry.uid, answerOf(entry));
      options.onPrepared(entry);
    }
    for (const job of jobs) job.done(answers);
  }

  /** What was prepared stays the answer, whatever became of the devices since. */
  function devicesOf(wanted: ClaimReference, claim: ResourceClaim, lookup: DeviceLookup): PreparedDevice[] {
    const known = store.claims.get(wanted.uid);
    if (known?.state === "Completed" && stillHolds(claim, known, lookup)) return known.devices;
    return allocatedDevices(claim, wanted, options.pool, lookup).map((each) => preparedDevice(each, options.pool));
  }

  async function unprepareBatch(jobs: readonly UnprepareJob[]): Promise<void> {
    const wanted = uniqueClaims(jobs);
    const failures = await undo(
      wanted.flatMap(({ uid }) => store.claims.get(uid) ?? []),
      whileAwaited(jobs),
    );
    const answers = new Map<string, UnprepareAnswer>();
    for (const { uid } of wanted) answers.set(uid, { error: failures.get(uid)?.message ?? "" });
    for (const job of jobs) job.done(answers);
  }
}

function whileAwaited(jobs: readonly ClaimCalls[]): GoOn {
  const isAwaited = waitingFor(jobs);
  return (claimUid) => {
    if (!isAwaited(claimUid)) throw new Abandoned();
  };
}

/**
 * Every device, in rank order. Only the first of a request refers to the request's CDI device: the kubelet hands a
 * container all references that it finds, and tells devices apart by the first one when it reports their health. CDI devices
 * of others are named once per request, too: partitions of one board have the same.
 */
function answerOf(claim: PreparedClaim): PrepareAnswer {
  const named = new Map<string, Set<string>>();
  const devices = claim.devices.map(({ request, pool, device, access }): PreparedDeviceMessage => {
    const before = named.get(request) ?? new Set();
    const cdi_device_ids = [cdiDeviceId(claim.uid, request), ...(access?.references ?? [])].filter(
      (id) => !before.has(id),
    );
    named.set(request, new Set([...before, ...cdi_device_ids]));
    return { request_names: [request], pool_name: pool, device_name: device, cdi_device_ids };
  });
  return { devices, error: "" };
}

/** Hands each caller the answers to its own claims. */
async function answered<A>(
  push: (done: (answers: ReadonlyMap<string, A>) => void) => void,
  claims: readonly ClaimReference[],
): Promise<Record<string, A>> {
  const answers = await new Promise<ReadonlyMap<string, A>>(push);
  return Object.fromEntries(claims.flatMap(({ uid }) => (answers.has(uid) ? [[uid, answers.get(uid)!]] : [])));
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
