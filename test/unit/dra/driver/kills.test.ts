import { execFile } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inTurns } from "../../../../src/dra/driver/in-turns.ts";
import type { Life } from "../../../support/driver-child.ts";
import {
  claims,
  closeScene,
  inherit,
  judge,
  machineType,
  openWithClaims,
  other,
} from "../../../support/driver-claims.ts";
import { act, awaken, type Deed } from "../../../support/driver-life.ts";
import { machineGpus } from "../../../support/machine-gpus.ts";

/**
 * The driver is killed with SIGKILL right after a step that changes a disk or a board, at every such step in turn. Whoever
 * comes after it must find all that is left over, and lose nothing. Past the last step it begins again, and then the successor is
 * killed as well: `npm run driver-faults` does so for a long time.
 */
const kills = process.env["KLLAMA_DRIVER_FAULTS"] === "all" ? 2_000 : 200;
/** A child starts while others are judged. */
const atOnce = 3;

const child = fileURLToPath(new URL("../../../support/driver-child.ts", import.meta.url));
interface Chapter {
  what: string;
  /** What happened before: the last deed may itself be cut short after `cutAfter` effects. */
  before: readonly Deed[];
  cutAfter?: number;
  /** Done by the one that is killed. */
  deeds: readonly Deed[];
  /** What the kubelet asks for again, and what is prepared once that is answered. */
  again: Deed;
  after: readonly string[];
}

const chapters: readonly Chapter[] = [
  {
    what: "preparing a claim of a GPU and two partitions",
    before: [{ prepare: ["kept"] }],
    deeds: [{ prepare: ["parts"] }],
    again: { prepare: ["parts"] },
    after: ["kept", "parts"],
  },
  {
    what: "preparing three claims in one batch",
    before: [{ prepare: ["kept"] }],
    deeds: [{ prepare: other }],
    again: { prepare: other },
    after: ["kept", ...other],
  },
  {
    what: "preparing what a predecessor left half prepared, before it was undone",
    before: [{ prepare: ["kept"] }, { prepare: other }],
    cutAfter: 12,
    deeds: [{ prepare: other }],
    again: { prepare: other },
    after: ["kept", ...other],
  },
  {
    what: "unpreparing a claim of a GPU and two partitions",
    before: [{ prepare: ["kept", "parts"] }],
    deeds: [{ unprepare: ["parts"] }],
    again: { unprepare: ["parts"] },
    after: ["kept"],
  },
  {
    what: "unpreparing three claims in one batch",
    before: [{ prepare: ["kept", ...other] }],
    deeds: [{ unprepare: other }],
    again: { unprepare: other },
    after: ["kept"],
  },
  {
    what: "undoing at the start what a predecessor left half prepared",
    before: [{ prepare: ["kept"] }, { prepare: other }],
    cutAfter: 20,
    deeds: [{ awaken: true }],
    again: { prepare: other },
    after: ["kept", ...other],
  },
  {
    what: "finishing at the start what a predecessor left half unprepared, then preparing it anew",
    before: [{ prepare: ["kept", ...other] }, { unprepare: other }],
    cutAfter: 4,
    deeds: [{ awaken: true }, { prepare: other }],
    again: { prepare: other },
    after: ["kept", ...other],
  },
  {
    what: "rebuilding a lost checkpoint, then unpreparing",
    before: [{ prepare: ["kept", ...other] }, { loseCheckpoint: true }],
    deeds: [{ awaken: true }, { unprepare: ["parts", "slices"] }],
    again: { unprepare: ["parts", "slices"] },
    after: ["kept", "whole"],
  },
];

const gpus = machineGpus(machineType);
const made: string[] = [];
const cache = mkdtempSync(join(tmpdir(), "kllama-kills-cache-"));

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), "kllama-kill-"));
  made.push(path);
  return path;
}

/** Resolves to whether it was killed. */
function live(life: Life): Promise<boolean> {
  const environment = { ...process.env, NODE_COMPILE_CACHE: cache };
  return new Promise((resolve, reject) => {
    execFile(process.execPath, [child, JSON.stringify(life)], { env: environment }, (error, _, stderr) => {
      if (error === null) resolve(false);
      else if (error.signal === "SIGKILL") resolve(true);
      else reject(new Error(stderr));
    });
  });
}

/** The chapter's beginning, in a folder, and the number of effects of its deeds. */
async function begin(chapter: Chapter): Promise<{ folder: string; effects: number }> {
  const path = folder();
  const whole = chapter.cutAfter === undefined ? chapter.before : chapter.before.slice(0, -1);
  const driver = await openWithClaims(path);
  for (const deed of whole) await act(driver, deed);
  await closeScene(driver);
  const cut = chapter.before.slice(whole.length);
  if (cut.length > 0) {
    expect(await live({ folder: path, gpus, claims, deeds: cut, dieAfter: chapter.cutAfter! }), chapter.what).toBe(
      true,
    );
  }
  let effects = 0;
  const rehearsal = folder();
  cpSync(path, rehearsal, { recursive: true });
  const counted = await openWithClaims(rehearsal, { onEffect: () => (effects += 1) });
  for (const deed of chapter.deeds) await act(counted, deed);
  await closeScene(counted);
  return { folder: path, effects };
}

/** The successor wakes up; the kubelet asks again; then all is given back, and others get it. */
async function outlive(path: string, chapter: Chapter): Promise<void> {
  const driver = await openWithClaims(path);
  try {
    await awaken(driver);
    const found = await judge(driver);
    expect(found).toContain("kept");
    const { checkpoint } = driver;
    await act(driver, chapter.again);
    expect(await judge(driver)).toEqual([...chapter.after].toSorted());
    // Asking once more changes nothing.
    const before = readFileSync(checkpoint);
    await act(driver, { prepare: chapter.after });
    expect(readFileSync(checkpoint).equals(before)).toBe(true);
    await act(driver, { unprepare: chapter.after });
    await inherit(driver);
  } finally {
    await closeScene(driver);
  }
}

const beginnings: { chapter: Chapter; folder: string; effects: number }[] = [];

beforeAll(async () => {
  for (const chapter of chapters) beginnings.push({ chapter, ...(await begin(chapter)) });
}, 300_000);

afterAll(() => {
  for (const path of [...made, cache]) rmSync(path, { recursive: true, force: true });
});

describe("a driver that is killed", () => {
  test(`${kills} times, right after each step that changes a disk or a board: its successor loses nothing and leaves nothing over`, async () => {
    const boundaries = beginnings.flatMap(({ chapter, folder: from, effects }) =>
      Array.from({ length: effects }, (_, index) => ({ chapter, from, dieAfter: index + 1 })),
    );
    expect(boundaries.length).toBeGreaterThan(150);
    // Past the last boundary two processes are killed, one after the other.
    const beyond = Math.ceil((kills - boundaries.length) / 2);
    let killed = 0;
    const lives = Array.from({ length: boundaries.length + beyond }, (_, index) => index);
    await inTurns(lives, atOnce, async (index) => {
      const { chapter, from, dieAfter } = boundaries[index % boundaries.length]!;
      const path = folder();
      cpSync(from, path, { recursive: true });
      expect(await live({ folder: path, gpus, claims, deeds: chapter.deeds, dieAfter }), chapter.what).toBe(true);
      killed++;
      if (index >= boundaries.length) {
        const deeds = [{ awaken: true } as const, chapter.again];
        if (await live({ folder: path, gpus, claims, deeds, dieAfter: 1 + (index % 7) })) killed++;
      }
      try {
        await outlive(path, chapter);
      } catch (error) {
        throw new Error(`killed while ${chapter.what}, after effect ${dieAfter}`, { cause: error });
      }
      rmSync(path, { recursive: true, force: true });
    });
    expect(killed).toBe(boundaries.length + 2 * beyond);
  }, 1_200_000);
});
