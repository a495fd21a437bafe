import { EventEmitter } from "node:events";
import { expect, test } from "vitest";
import { readClaims } from "../../../../src/dra/driver/claim-reads.ts";
import { claimObject, referenceTo } from "../../../support/driver.ts";

/** A call that can be given up, as gRPC's server tells of it. */
class Call extends EventEmitter {
  cancelled = false;

  cancel(): void {
    this.cancelled = true;
    this.emit("cancelled");
  }
}

const [slow, quick, shared] = ["slow", "quick", "shared"].map((name) => claimObject(name, ["gpus gpu-0"]));

/** An API server that answers about `quick` alone; `ended`: reads that were given up. */
function hangingServer() {
  const ended: string[] = [];
  const read = (_namespace: string, name: string, signal?: AbortSignal) =>
    name === "quick"
      ? Promise.resolve(quick)
      : new Promise<never>((_, reject) => {
          signal?.addEventListener("abort", () => {
            ended.push(name);
            reject(new Error("aborted"));
          });
        });
  return { ended, read };
}

test("a read ends with the last call that waits for its claim, and holds up no other", async () => {
  const { ended, read } = hangingServer();
  const [first, second] = [new Call(), new Call()];
  const reading = readClaims(
    [
      { claims: [referenceTo(slow!), referenceTo(shared!)], call: first },
      { claims: [referenceTo(shared!), referenceTo(quick!)], call: second },
    ],
    read,
  );
  first.cancel();
  expect(ended).toEqual(["slow"]);
  second.cancel();
  expect(ended).toEqual(["slow", "shared"]);
  const read3 = await reading;
  expect(read3.map(({ wanted, claim, error }) => [wanted.name, claim?.metadata.name, error instanceof Error])).toEqual([
    ["slow", undefined, true],
    ["shared", undefined, true],
    ["quick", "quick", false],
  ]);
});

test("a call that is over after its claims were read ends nothing", async () => {
  const { ended, read } = hangingServer();
  const call = new Call();
  await readClaims([{ claims: [referenceTo(quick!)], call }], read);
  call.cancel();
  expect(ended).toEqual([]);
});
