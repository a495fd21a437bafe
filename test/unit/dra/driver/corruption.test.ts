import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { lstat, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { claimObject, type DriverScene, openScene } from "../../../support/driver.ts";
import { awaken } from "../../../support/driver-life.ts";

/**
 * A checkpoint is damaged in every way that disks, crashes and people know. The driver that starts with it finds all again,
 * says so once, keeps what it found aside, and starts the next time as if nothing had been. `npm run driver-faults`
 * flips many more bits.
 */
const flips = process.env["KLLAMA_DRIVER_FAULTS"] === "all" ? 1_898 : 98;

const type = "dgx-a100-mig";
const claims = [
  claimObject("a", ["gpus gpu-1"]),
  claimObject("b", ["part gpu-0-mig-2g20gb-14-2", "more gpu-0-mig-1g10gb-19-0"]),
];

/** What is done to the file; undefined: there is none then. */
type Damage = (sound: Buffer, path: string) => Buffer | undefined;

const text =
  (change: (line: string, document: string) => string): Damage =>
  (sound) => {
    const [line = "", document = ""] = sound.toString("utf8").split("\n");
    return Buffer.from(change(line, document));
  };

/** A file whose checksum is right, whatever it holds. */
const signed = (document: string): Buffer => {
  const sha256 = createHash("sha256").update(document).digest("hex");
  return Buffer.from(`${JSON.stringify({ format: "kllama-checkpoint", version: 1, sha256 })}\n${document}`);
};

const edited =
  (edit: (body: { bootId?: unknown; claims: Record<string, unknown>[] }) => unknown): Damage =>
  (sound) =>
    signed(JSON.stringify(edit(JSON.parse(sound.toString("utf8").split("\n")[1] ?? "") as never)));

const inPlace =
  (make: (path: string) => void): Damage =>
  (_, path) => {
    rmSync(path);
    make(path);
    return undefined;
  };

const share = (sound: Buffer, part: number): number => Math.floor(sound.length * part);

const ways: readonly (readonly [string, Damage])[] = [
  ...Array.from({ length: flips }, (_, index): [string, Damage] => [
    `bit ${index % 8} flipped at ${index}/${flips}`,
    (sound) => {
      const copy = Buffer.from(sound);
      copy[share(sound, index / flips)]! ^= 1 << (index % 8);
      return copy;
    },
  ]),
  ...Array.from({ length: 30 }, (_, index): [string, Damage] => [
    `cut off at ${index}/30`,
    (sound) => sound.subarray(0, share(sound, index / 30)),
  ]),
  ...Array.from({ length: 12 }, (_, index): [string, Damage] => [
    `zeros from ${index}/12 on`,
    (sound) => Buffer.from(sound).fill(0, share(sound, index / 12)),
  ]),
  ["one byte short", (sound) => sound.subarray(0, -1)],
  ["one byte more", (sound) => Buffer.concat([sound, Buffer.from("\n")])],
  ["twice in one file", (sound) => Buffer.concat([sound, sound])],
  ["its halves exchanged", (sound) => Buffer.concat([sound.subarray(200), sound.subarray(0, 200)])],
  ["a byte order mark before it", (sound) => Buffer.concat([Buffer.from("\ufeff"), sound])],
  ["other line ends", (sound) => Buffer.from(sound.toString("utf8").replaceAll("\n", "\r\n"))],
  ["another encoding", (sound) => Buffer.from(sound.toString("utf8"), "utf16le")],
  ["random bytes", () => createHash("sha512").update("noise").digest()],
  ["the text of an editor's crash", () => Buffer.from("b0VIM 9.1")],
  ["megabytes of zeros", () => Buffer.alloc(4 * 2 ** 20)],
  ["only its first line", text((line) => `${line}\n`)],
  ["only its document", text((_, document) => `${document}\n`)],
  ["another format", text((line, document) => `${line.replace("kllama", "other")}\n${document}\n`)],
  ...["2", "9", "1e9", "1.5", "0", "-1", '"1"', "null", "[1]", "true"].map((version): [string, Damage] => [
    `version ${version}`,
    text((line, document) => `${line.replace('"version":1', `"version":${version}`)}\n${document}\n`),
  ]),
  ...["", "0", "0".repeat(64), "null"].map((sum): [string, Damage] => [
    `checksum ${JSON.stringify(sum)}`,
    text((line, document) => `${line.replace(/"sha256":"[^"]*"/, `"sha256":"${sum}"`)}\n${document}\n`),
  ]),
  ["no checksum", text((line, document) => `${line.replace(/,"sha256":"[^"]*"/, "")}\n${document}\n`)],
  ["another's checksum", text((_, document) => `${signed("{}").toString("utf8").split("\n")[0]}\n${document}\n`)],
  ...["", "null", "[]", "{}", "7", '"text"', "{", '{"bootId":"boot"}', '{"bootId":"boot","claims":{}}'].map(
    (document): [string, Damage] => [`the right checksum of ${document || "nothing"}`, () => signed(document)],
  ),
  ["no boot ID", edited(({ claims: kept }) => ({ claims: kept }))],
  ["a boot ID that is a number", edited((body) => ({ ...body, bootId: 7 }))],
  ["a claim that is null", edited((body) => ({ ...body, claims: [null] }))],
  ...["namespace", "name", "uid", "state", "devices"].map((field): [string, Damage] => [
    `claims without ${field}`,
    edited((body) => ({ ...body, claims: body.claims.map(({ [field]: _, ...rest }) => rest) })),
  ]),
  [
    "a state of the future",
    edited((body) => ({ ...body, claims: body.claims.map((c) => ({ ...c, state: "Paused" })) })),
  ],
  ["a UID that is a path", edited((body) => ({ ...body, claims: body.claims.map((c) => ({ ...c, uid: "../../x" })) }))],
  [
    "a device that is text",
    edited((body) => ({ ...body, claims: body.claims.map((c) => ({ ...c, devices: ["gpu"] })) })),
  ],
  ["empty", () => Buffer.alloc(0)],
  ["one line end", () => Buffer.from("\n")],
  ["gone", inPlace(() => undefined)],
  ["a folder in its place", inPlace((path) => mkdirSync(path))],
  ["a folder with something in it", inPlace((path) => mkdirSync(join(path, "deep"), { recursive: true }))],
  ["a pipe in its place", inPlace((path) => execFileSync("mkfifo", [path]))],
  ["a link to nothing", inPlace((path) => symlinkSync("/nonexistent/checkpoint", path))],
  ["a link to itself", inPlace((path) => symlinkSync(path, path))],
  ["a link to a folder", inPlace((path) => symlinkSync(dirname(path), path))],
  ["a link to a device without end", inPlace((path) => symlinkSync("/dev/zero", path))],
  [
    "a file of a terabyte",
    inPlace((path) => {
      writeFileSync(path, "{");
      truncateSync(path, 2 ** 40);
    }),
  ],
];

const root = mkdtempSync(join(tmpdir(), "kllama-corrupt-"));
const whole = join(root, "whole");
let known: string[];

async function open(folder: string): Promise<DriverScene> {
  const driver = await openScene(type, { folder });
  for (const claim of claims) driver.claims.set(claim.metadata.name, claim);
  return driver;
}

async function close(driver: DriverScene): Promise<void> {
  await driver.preparation.idle();
  await driver.machine.close();
}

/** What matters of each claim: whose it is, its state, its devices and partitions. */
function summary({ store }: DriverScene): string[] {
  return [...store.claims.values()]
    .map(({ name, uid, state, devices }) => {
      const parts = devices.map(({ request, device, partition }) => `${request} ${device} ${partition?.uuid}`);
      return `${name} ${uid} ${state}: ${parts.join(", ")}`;
    })
    .toSorted();
}

beforeAll(async () => {
  mkdirSync(whole);
  const driver = await open(whole);
  await driver.prepare("a", "b");
  known = summary(driver);
  await close(driver);
});

afterAll(() => rmSync(root, { recursive: true, force: true }));

test(`there are ${flips + 102} ways, each another one`, () => {
  expect(new Set(ways.map(([name]) => name)).size).toBe(flips + 102);
});

describe("a checkpoint that is damaged", () => {
  test(`in ${ways.length} ways: kept aside, told once, rebuilt, and no trouble at the next start`, async () => {
    for (const [name, damage] of ways) {
      try {
        await survive(damage);
      } catch (error) {
        throw new Error(name, { cause: error });
      }
    }
  }, 1_200_000);
});

async function survive(damage: Damage): Promise<void> {
  const folder = mkdtempSync(join(root, "case-"));
  cpSync(whole, folder, { recursive: true });
  const path = join(folder, "checkpoint.json");
  const sound = await readFile(path);
  const bytes = damage(sound, path);
  if (bytes !== undefined) writeFileSync(path, bytes);
  const there = await lstat(path).then(
    () => true,
    () => false,
  );
  const first = await open(folder);
  const { rebuilt } = await awaken(first);
  expect(rebuilt).toHaveLength(1);
  expect(summary(first)).toEqual(known);
  const { aside } = rebuilt[0]!;
  // A link to nothing is no checkpoint; there is nothing to look at later.
  expect(aside === undefined).toBe(!there || /does not exist/.test(rebuilt[0]!.why));
  if (aside !== undefined && bytes !== undefined) expect((await readFile(aside)).equals(bytes)).toBe(true);
  const answer = await first.prepare("a", "b");
  await close(first);
  const second = await open(folder);
  expect(await awaken(second)).toEqual({ rebuilt: [], undone: 0, strays: 0 });
  expect(summary(second)).toEqual(known);
  expect(await second.prepare("a", "b")).toEqual(answer);
  expect(await second.unprepare("a", "b")).toEqual({ a: "", b: "" });
  await close(second);
  rmSync(folder, { recursive: true, force: true });
}
