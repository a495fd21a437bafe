import { mkdtempSync, rmSync } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { createClaimStore } from "../../../../src/dra/driver/claim-store.ts";
import { replaceFile } from "../../../../src/dra/driver/durable-files.ts";

/** What a file system is asked, in order, each once the one before was answered: only this survives a power cut. */
let asked: string[];
/** Told of what is being asked; what it returns is awaited first. */
let before: (what: string) => Promise<void>;
let folder: string;

vi.mock("node:fs/promises", async (original) => {
  const real = await original<typeof import("node:fs/promises")>();
  const ask = async <T>(what: string, work: () => Promise<T>): Promise<T> => {
    await before(what);
    const result = await work();
    asked.push(what);
    return result;
  };
  const name = (path: unknown): string => String(path).slice(folder.length + 1) || "folder";
  const watched = (file: FileHandle, path: unknown): FileHandle =>
    Object.assign(file, {
      writeFile: (content: string) =>
        ask(`write ${name(path)}`, () => Object.getPrototypeOf(file).writeFile.call(file, content)),
      sync: () => ask(`sync ${name(path)}`, () => Object.getPrototypeOf(file).sync.call(file)),
    });
  return {
    ...real,
    open: async (path: string, ...more: [string?, number?]) => watched(await real.open(path, ...more), path),
    rename: (from: string, to: string) => ask(`rename ${name(from)} to ${name(to)}`, () => real.rename(from, to)),
  };
});

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "kllama-durable-"));
  asked = [];
  before = async () => undefined;
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const durably = ["write c.tmp", "sync c.tmp", "rename c.tmp to c", "sync folder"];

test("a durable file is on the disk before it gets its name, and its name before anybody is told", async () => {
  await replaceFile(join(folder, "c"), "text", { durable: true, onEffect: () => undefined });
  expect(asked).toEqual(durably);
});

test.for(durably)("when the disk refuses to %s, whoever asked is told", async (step) => {
  before = (what) => (what === step ? Promise.reject(new Error("EIO")) : Promise.resolve());
  const replaced = replaceFile(join(folder, "c"), "text", { durable: true, onEffect: () => undefined });
  await expect(replaced).rejects.toThrow("EIO");
  expect(asked).toEqual(durably.slice(0, durably.indexOf(step)));
});

test("the checkpoint is such a file; CDI specs, which a reboot makes void, are not", async () => {
  const options = { checkpoint: join(folder, "c"), cdiFolder: folder, bootId: "boot", onEffect: () => undefined };
  const store = createClaimStore(options, []);
  await store.save();
  expect(asked).toEqual(durably);
  asked = [];
  const uid = "11111111-1111-4111-8111-111111111111";
  await store.writeSpec({ namespace: "team", name: "c", uid, state: "Started", devices: [] });
  expect(asked.filter((what) => what.startsWith("sync"))).toEqual([]);
  expect(asked).toHaveLength(2);
});
