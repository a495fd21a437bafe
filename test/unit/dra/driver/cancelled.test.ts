import { once } from "node:events";
import { cpSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { connect as connectHttp2 } from "node:http2";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { decodeCheckpoint } from "../../../../src/dra/driver/checkpoint.ts";
import { type CallState, draServer } from "../../../../src/dra/driver/dra-server.ts";
import { draServices } from "../../../../src/dra/driver/grpc.ts";
import type { PreparedClaim } from "../../../../src/dra/driver/prepared-claim.ts";
import { listenUnix } from "../../../../src/dra/driver/unix-server.ts";
import { type DriverScene, referenceTo } from "../../../support/driver.ts";
import { claims, closeScene, inherit, judge, openWithClaims, other } from "../../../support/driver-claims.ts";
import { act, awaken } from "../../../support/driver-life.ts";
import { connectKubelet, type KubeletClient } from "../../../support/kubelet-client.ts";

/**
 * The kubelet gives a call up while the driver stands between two steps: the driver is held there until its gRPC server has
 * noticed. Nothing further may begin then; what was done is in the checkpoint, and whoever comes next puts it right.
 */

type Verb = "prepare" | "unprepare";

interface Served {
  driver: DriverScene;
  kubelet: KubeletClient;
  socket: string;
  /** Steps that began since the last look. */
  steps(): string[];
  /** Awaited after the step with this number, counted from 1 and from now on. */
  holdAfter(number: number, work: () => Promise<void>): void;
  /** Calls that arrived since the last look. */
  calls: Arrival[];
  /** Resolves when the next call has arrived. */
  arrival(): Promise<Arrival>;
  close(): Promise<void>;
}

interface Arrival {
  /** The server knows that nobody waits. */
  cancelled: Promise<unknown>;
}

const made: string[] = [];
const served: Served[] = [];

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), "kllama-cancel-"));
  made.push(path);
  return path;
}

/** The driver of the claims on a folder, behind its gRPC server on a socket. */
async function serve(
  path: string,
  options: Pick<Parameters<typeof openWithClaims>[1] & object, "readClaim"> = {},
): Promise<Served> {
  const begun: string[] = [];
  let done = 0;
  let hold = { at: 0, work: async (): Promise<void> => undefined };
  const driver = await openWithClaims(path, {
    ...options,
    hooks: {
      before: (step) => void begun.push(step),
      async after() {
        done += 1;
        if (done === hold.at) await hold.work();
      },
    },
  });
  const calls: Arrival[] = [];
  let arrived = Promise.withResolvers<Arrival>();
  const arrive = (call: CallState): void => {
    const arrival = { cancelled: once(call as CallState & NodeJS.EventEmitter, "cancelled") };
    calls.push(arrival);
    arrived.resolve(arrival);
    arrived = Promise.withResolvers();
  };
  const { server } = draServer({
    prepare(claims, call) {
      arrive(call);
      return driver.preparation.prepare(claims, call);
    },
    unprepare(claims, call) {
      arrive(call);
      return driver.preparation.unprepare(claims, call);
    },
    watchHealth: () => () => undefined,
  });
  const socket = join(path, "dra.sock");
  const listening = await listenUnix(server, socket);
  const kubelet = connectKubelet(socket, socket);
  const one: Served = {
    ...{ driver, kubelet, socket, calls },
    steps: () => begun.splice(0),
    holdAfter(number, work) {
      hold = { at: done + number, work };
    },
    arrival: () => arrived.promise,
    async close() {
      kubelet.close();
      await closeScene(driver);
      await listening.close(0);
    },
  };
  served.push(one);
  return one;
}

afterEach(async () => {
  for (const one of served.splice(0)) await one.close();
  for (const path of made.splice(0)) rmSync(path, { recursive: true, force: true });
});

const references = ({ driver }: Served, names: readonly string[]) =>
  names.map((name) => referenceTo(driver.claims.get(name)!));

function onDisk({ driver }: Served): PreparedClaim[] {
  const reading = decodeCheckpoint(readFileSync(driver.checkpoint));
  if (reading.kind !== "sound") throw new Error(reading.why);
  return reading.checkpoint.claims;
}

const states = (claims: Iterable<PreparedClaim>) => [...claims].map(({ name, state }) => `${name} ${state}`).toSorted();

/** The call is given up after its step with this number. @returns the steps that began afterwards. */
async function cutShort(one: Served, verb: Verb, names: readonly string[], number: number): Promise<string[]> {
  const call = one.kubelet.begin(verb, references(one, names));
  const rejected = expect(call.answer).rejects.toMatchObject({ code: 1 });
  let reached = false;
  one.holdAfter(number, async () => {
    reached = true;
    call.cancel();
    await one.calls.at(-1)!.cancelled;
    one.steps();
  });
  await rejected;
  await one.driver.preparation.idle();
  expect(reached).toBe(true);
  return one.steps();
}

/** Of a call that nobody gives up. */
async function countSteps(path: string, verb: Verb, names: readonly string[]): Promise<number> {
  const rehearsal = folder();
  cpSync(path, rehearsal, { recursive: true });
  const one = await serve(rehearsal);
  await one.kubelet[verb](references(one, names));
  return one.steps().length;
}

/** What may come after a call that was given up. */
const sequels: Record<string, (one: Served, verb: Verb) => Promise<Served>> = {
  async "the kubelet asks again"(one, verb) {
    expect(Object.values(await one.kubelet[verb](references(one, other))).map(({ error }) => error)).toEqual([
      "",
      "",
      "",
    ]);
    return one;
  },
  async "the reconciler passes, then the kubelet asks again"(one, verb) {
    await awaken(one.driver);
    await judge(one.driver);
    await act(one.driver, verb === "prepare" ? { prepare: other } : { unprepare: other });
    return one;
  },
  async "it is killed, then the kubelet asks again"({ driver }, verb) {
    const path = folder();
    cpSync(driver.folder, path, { recursive: true, filter: (name) => !name.endsWith(".sock") });
    const next = await serve(path);
    await act(next.driver, verb === "prepare" ? { prepare: other } : { unprepare: other });
    return next;
  },
  async "the pod is over"(one, verb) {
    await one.kubelet.unprepare(references(one, other));
    expect(await judge(one.driver)).toEqual(["kept"]);
    if (verb === "prepare") await act(one.driver, { prepare: other });
    return one;
  },
};

interface Case {
  what: string;
  verb: Verb;
  /** Prepared before. */
  before: readonly string[];
  /** A first call was given up after so many steps. */
  halfDone?: number;
}
const cases: readonly Case[] = [
  { what: "NodePrepareResources of three claims", verb: "prepare", before: ["kept"] },
  {
    what: "NodePrepareResources of what an earlier one left half done",
    verb: "prepare",
    before: ["kept"],
    halfDone: 9,
  },
  { what: "NodeUnprepareResources of three claims", verb: "unprepare", before: ["kept", ...other] },
];

describe("a call that is given up after any of its steps begins no further one, and the next call succeeds", () => {
  test.each(cases)(
    "$what",
    async ({ verb, before, halfDone }) => {
      const path = folder();
      const first = await serve(path);
      await act(first.driver, { prepare: before });
      first.steps();
      if (halfDone !== undefined) await cutShort(first, verb, other, halfDone);
      await first.close();
      served.splice(0);
      rmSync(join(path, "dra.sock"), { force: true });
      const steps = await countSteps(path, verb, other);
      expect(steps).toBeGreaterThan(8);
      for (let number = 1; number <= steps; number++) {
        const [what, sequel] = Object.entries(sequels)[number % 4]!;
        const here = folder();
        cpSync(path, here, { recursive: true });
        const one = await serve(here);
        try {
          const further = await cutShort(one, verb, other, number);
          // Only that something is gone may still have to be written down.
          expect(further.length === 0 || (further.length === 1 && further[0] === "save"), String(further)).toBe(true);
          expect(states(onDisk(one))).toEqual(states(one.driver.store.claims.values()));
          expect(states(onDisk(one))).toContain("kept Completed");
          const last = await sequel(one, verb);
          const prepared = verb === "prepare" ? ["kept", ...other] : ["kept"];
          expect(await judge(last.driver)).toEqual(prepared.toSorted());
          await act(last.driver, { unprepare: prepared });
          await inherit(last.driver);
        } catch (error) {
          throw new Error(`given up after step ${number} of ${steps}; then ${what}`, { cause: error });
        }
        for (const each of served.splice(0)) await each.close();
      }
    },
    300_000,
  );
});

/** Holds the driver up after its first step, from when `held` resolves until `release` is called. */
function holdFirst(one: Awaited<ReturnType<typeof serve>>) {
  const held = Promise.withResolvers<void>();
  const released = Promise.withResolvers<void>();
  one.holdAfter(1, () => {
    held.resolve();
    return released.promise;
  });
  return { held: held.promise, release: released.resolve };
}

test("a call that was given up while it waited for its turn never runs; the one before it is finished", async () => {
  const one = await serve(folder());
  const { held, release } = holdFirst(one);
  const first = one.kubelet.begin("prepare", references(one, ["kept"]));
  await held;
  const arriving = one.arrival();
  const second = one.kubelet.begin("prepare", references(one, other));
  const { cancelled } = await arriving;
  second.cancel();
  await expect(second.answer).rejects.toMatchObject({ code: 1 });
  await cancelled;
  release();
  await first.answer;
  await one.driver.preparation.idle();
  expect(await judge(one.driver)).toEqual(["kept"]);
});

test("a call that is given up while the API server does not answer ends its read, and the next one has its turn", async () => {
  let hanging = true;
  const reading = Promise.withResolvers<void>();
  const one = await serve(folder(), {
    async readClaim(_, name, signal) {
      if (!hanging) return claims.find(({ metadata }) => metadata.name === name);
      reading.resolve();
      return new Promise<never>((_, reject) => signal?.addEventListener("abort", () => reject(new Error("aborted"))));
    },
  });
  const givenUp = one.kubelet.begin("prepare", references(one, other));
  const rejected = expect(givenUp.answer).rejects.toMatchObject({ code: 1 });
  await reading.promise;
  hanging = false;
  givenUp.cancel();
  await rejected;
  await act(one.driver, { prepare: other });
  expect(await judge(one.driver)).toEqual(other.toSorted());
});

test("a claim for which another call of the same batch waits is finished", async () => {
  const one = await serve(folder());
  // The first call keeps the driver busy, so that the other two share a batch.
  const { held, release } = holdFirst(one);
  const busy = one.kubelet.begin("prepare", references(one, ["kept"]));
  await held;
  let arriving = one.arrival();
  const givenUp = one.kubelet.begin("prepare", references(one, ["slices", "parts"]));
  const rejected = expect(givenUp.answer).rejects.toMatchObject({ code: 1 });
  const { cancelled } = await arriving;
  arriving = one.arrival();
  const awaited = one.kubelet.begin("prepare", references(one, ["parts", "whole"]));
  await arriving;
  // Of these, the first is the end of the busy call, the second says that all of the batch were begun.
  one.holdAfter(2, async () => {
    givenUp.cancel();
    await cancelled;
  });
  release();
  await busy.answer;
  await rejected;
  expect(Object.values(await awaited.answer).map(({ error }) => error)).toEqual(["", ""]);
  await one.driver.preparation.idle();
  expect(states(onDisk(one))).toContain("parts Completed");
  expect(states(onDisk(one))).toContain("whole Completed");
  expect(states(onDisk(one))).not.toContain("slices Completed");
  await act(one.driver, { prepare: other });
  expect(await judge(one.driver)).toEqual(["kept", ...other].toSorted());
});

describe("the driver stops as well", () => {
  test("when the kubelet's deadline has passed", async () => {
    const one = await serve(folder());
    await act(one.driver, { prepare: ["kept"] });
    let reached = false;
    // A deadline that passes before the third step says nothing: then a longer one.
    for (let deadlineMs = 100; !reached; deadlineMs *= 2) {
      one.steps();
      one.holdAfter(3, async () => {
        reached = true;
        await one.calls.at(-1)!.cancelled;
        one.steps();
      });
      const call = one.kubelet.begin("prepare", references(one, other), deadlineMs);
      await expect(call.answer).rejects.toMatchObject({ code: 4 });
      await one.driver.preparation.idle();
    }
    expect(one.steps()).toEqual([]);
    await act(one.driver, { prepare: other });
    expect(await judge(one.driver)).toHaveLength(4);
  });

  test("when the kubelet is gone", async () => {
    const one = await serve(folder());
    await act(one.driver, { prepare: ["kept"] });
    const socket = connect(one.socket);
    const session = connectHttp2("http://localhost", { createConnection: () => socket });
    const gone = Promise.withResolvers<void>();
    one.holdAfter(3, async () => {
      socket.destroy();
      await one.calls[0]!.cancelled;
      one.steps();
      gone.resolve();
    });
    const { path, requestSerialize } = draServices.get("v1.DRAPlugin")!["NodePrepareResources"]!;
    const message = requestSerialize({ claims: references(one, other) });
    const head = Buffer.alloc(5);
    head.writeUInt32BE(message.length, 1);
    const headers = { ":method": "POST", ":path": path, "content-type": "application/grpc", te: "trailers" };
    const stream = session.request(headers);
    for (const each of [session, stream]) each.on("error", () => undefined);
    stream.end(Buffer.concat([head, message]));
    await gone.promise;
    await one.driver.preparation.idle();
    expect(one.steps()).toEqual([]);
    await act(one.driver, { prepare: other });
    expect(await judge(one.driver)).toHaveLength(4);
  });
});
