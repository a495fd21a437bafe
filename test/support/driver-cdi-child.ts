import { execFileSync } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { isDeepStrictEqual } from "node:util";
import { specFile } from "../../src/dra/driver/cdi.ts";
import { decodeCheckpoint } from "../../src/dra/driver/checkpoint.ts";
import { readIfThere } from "../../src/dra/driver/durable-files.ts";
import { createRandom } from "../simulation/random.ts";
import { claimObject, openScene } from "./driver.ts";

/**
 * Runs in a mount namespace of its own, on real file systems, with a folder, a number of rounds and a seed. In each round the
 * CDI folder is lost, full or read-only while claims are prepared and unprepared; then it is put right, and all is asked again.
 * Prints what happened, and everything that was not as it has to be.
 */

const [folder = "", rounds = "0", seed = "0"] = process.argv.slice(2);
const random = createRandom(Number(seed));
const disk = join(folder, "disk");
const cdi = join(disk, "cdi");
const filler = join(disk, "filler");
const names = ["a", "b", "c", "d"];
const mount = (...options: string[]): void => void execFileSync("mount", options);

mkdirSync(disk);
mount("-t", "tmpfs", "-o", "size=64k", "none", disk);
const driver = await openScene("dgx-h100", { folder, cdiFolder: cdi });
const wrong: string[] = [];
const told = { wiped: 0, full: 0, "read-only": 0, refused: 0, done: 0 };
/** What the kubelet asked for last, claim by claim. */
const asked = new Map<string, "prepare" | "unprepare">();
/** Claims that were unprepared: the next one of that name is another. Of others the kubelet goes on asking. */
const gone = new Set<string>();
type Fault = "wiped" | "full" | "read-only";

function breakDisk(fault: Fault): void {
  if (fault === "wiped") rmSync(cdi, { recursive: true, force: true });
  // The mount, not the file system, whose options a user namespace may not change.
  else if (fault === "read-only") mount("-o", "remount,bind,ro", disk);
  else fill();
}

function fill(): void {
  try {
    for (;;) writeFileSync(filler, "x".repeat(1024), { flag: "a" });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
  }
}

function heal(fault: Fault): void {
  if (fault === "read-only") mount("-o", "remount,bind,rw", disk);
  if (fault === "full") rmSync(filler, { force: true });
}

/** Some claims at once, most of them new to this round. */
async function askSome(): Promise<void> {
  const verb = random.chance(0.6) ? "prepare" : "unprepare";
  const some = names.filter(() => random.chance(0.5));
  if (verb === "prepare") {
    for (const name of some) {
      if (driver.claims.has(name) && !gone.delete(name)) continue;
      driver.claims.set(name, claimObject(name, [`gpus gpu-${names.indexOf(name)}`]));
    }
  }
  const known = some.filter((name) => driver.claims.has(name));
  for (const name of known) asked.set(name, verb);
  for (const [name, answer] of Object.entries(await driver[verb](...known))) {
    judge(name, answer);
    if (verb === "unprepare" && answer === "") gone.add(name);
  }
}

function judge(name: string, answer: string | string[]): void {
  if (typeof answer !== "string" || answer === "") told.done += 1;
  else if (/CDI spec .* cannot be (written|removed): (ENOSPC|EROFS): .*; \S/.test(answer)) told.refused += 1;
  else wrong.push(`${name}: ${answer}`);
}

/** The kubelet asks again for what it last asked for; then files, checkpoint and memory have to agree. */
async function putRight(round: string): Promise<void> {
  for (const [name, verb] of asked) {
    const answer = (await driver[verb](name))[name];
    if (verb === "unprepare" && answer === "") gone.add(name);
    if (verb === "prepare" ? typeof answer === "string" : answer !== "")
      wrong.push(`${round}: ${name}: ${String(answer)}`);
  }
  const uids = [...asked]
    .filter(([, verb]) => verb === "prepare")
    .map(([name]) => driver.claims.get(name)!.metadata.uid!);
  const wanted = uids.map(specFile).toSorted();
  const there = (await readdir(cdi).catch(() => [])).toSorted();
  if (!isDeepStrictEqual(there, wanted))
    wrong.push(`${round}: specs ${there.join(" ")} instead of ${wanted.join(" ")}`);
  for (const [name, verb] of asked) {
    if (verb === "prepare" && !JSON.parse(await driver.spec(name)).devices) wrong.push(`${round}: spec of ${name}`);
  }
  const bytes = await readIfThere(driver.checkpoint);
  const reading = bytes === undefined ? undefined : decodeCheckpoint(bytes);
  if (reading !== undefined && reading.kind !== "sound") wrong.push(`${round}: the checkpoint: ${reading.why}`);
  const kept = reading?.kind === "sound" ? reading.checkpoint.claims : [];
  const states = kept.filter(({ state }) => state === "Completed").map(({ uid }) => uid);
  if (!isDeepStrictEqual(states.toSorted(), uids.toSorted()) || kept.length !== uids.length) {
    wrong.push(`${round}: the checkpoint has ${kept.map(({ name, state }) => `${name} ${state}`).join(", ")}`);
  }
}

for (let round = 0; round < Number(rounds); round++) {
  const fault = random.pick<Fault>(["wiped", "full", "read-only"]);
  told[fault] += 1;
  await askSome();
  breakDisk(fault);
  for (let calls = random.between(1, 3); calls > 0; calls--) await askSome();
  heal(fault);
  await putRight(`round ${round} (${fault})`);
}
console.log(JSON.stringify({ told, wrong: wrong.slice(0, 10) }));
process.exit(0);
