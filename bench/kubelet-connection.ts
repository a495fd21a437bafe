import { connect, type Socket } from "node:net";
import { type ClaimReference, type ClaimsResponse, draServices } from "../src/dra/driver/grpc.ts";

/**
 * The kubelet's one connection to the driver, with as little work as possible in this process, which shares its cores with
 * the driver: the bytes of all calls are made beforehand and written at once, and of what comes back nothing is decoded
 * before the clock stands. HTTP/2 as in RFC 9113, header fields as literals (RFC 7541, 6.2.2).
 */
export interface KubeletConnection {
  /** A call for each claim, all at once. @returns the milliseconds of each. Rejects when a claim's answer is none, or an error. */
  callAll(verb: "prepare" | "unprepare", claims: readonly ClaimReference[]): Promise<number[]>;
  close(): void;
}

const methods = { prepare: "NodePrepareResources", unprepare: "NodeUnprepareResources" } as const;
const frames = { data: 0, headers: 1, reset: 3, settings: 4, ping: 6, goAway: 7, windowUpdate: 8 } as const;
const endStream = 1;
const endHeaders = 4;
const acknowledgement = 1;

interface Call {
  claim: ClaimReference;
  message: Buffer[];
  tookMs?: number;
}

interface Round {
  calls: Map<number, Call>;
  open: number;
  startedMs: number;
  done(): void;
  fail(error: Error): void;
}

export async function connectDriver(path: string): Promise<KubeletConnection> {
  const socket = connect(path);
  await new Promise<void>((resolve, reject) => void socket.once("connect", resolve).once("error", reject));
  socket.write(Buffer.concat([Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), frame(frames.settings, 0, 0)]));
  let nextStream = 1;
  let round: Round | undefined;
  const fail = (error: Error): void => round?.fail(error);
  socket.on("error", fail).on("close", () => fail(new Error("the driver closed the connection")));
  readFrames(socket, (type, flags, stream, payload) => {
    if (type === frames.settings && flags !== acknowledgement) socket.write(frame(type, acknowledgement, 0));
    if (type === frames.ping && flags !== acknowledgement) socket.write(frame(type, acknowledgement, 0, payload));
    if (type === frames.goAway) fail(new Error("the driver wants no more calls on this connection"));
    const call = round?.calls.get(stream);
    if (round === undefined || call === undefined) return;
    if (type === frames.reset) fail(new Error(`the call for claim ${call.claim.name} was reset`));
    if (type === frames.data) call.message.push(Buffer.from(payload));
    if ((type !== frames.data && type !== frames.headers) || (flags & endStream) === 0) return;
    call.tookMs = performance.now() - round.startedMs;
    round.open -= 1;
    if (round.open === 0) round.done();
  });
  return {
    async callAll(verb, claims) {
      const { path: name, requestSerialize, responseDeserialize } = draServices.get("v1.DRAPlugin")![methods[verb]]!;
      const calls = new Map<number, Call>();
      const head = Buffer.concat([Buffer.from([0x83, 0x86]), ...headerFields(name)]);
      const bytes = claims.flatMap((claim) => {
        const stream = nextStream;
        nextStream += 2;
        calls.set(stream, { claim, message: [] });
        const message = delimited(requestSerialize({ claims: [claim] }));
        return [frame(frames.headers, endHeaders, stream, head), frame(frames.data, endStream, stream, message)];
      });
      const all = Buffer.concat(bytes);
      await new Promise<void>((resolve, reject) => {
        const startedMs = performance.now();
        round = { calls, open: calls.size, startedMs, done: resolve, fail: reject };
        socket.write(all);
      }).finally(() => {
        round = undefined;
      });
      let received = 0;
      const times = [...calls.values()].map(({ claim, message, tookMs }) => {
        const whole = Buffer.concat(message);
        received += whole.length;
        if (whole.length < 5) throw new Error(`the call for claim ${claim.name} failed`);
        const answer = responseDeserialize(whole.subarray(5)) as ClaimsResponse<{ error: string }>;
        const error = answer.claims[claim.uid]?.error ?? "no answer";
        if (error !== "") throw new Error(error);
        return tookMs!;
      });
      const increment = Buffer.alloc(4);
      increment.writeUInt32BE(received);
      socket.write(frame(frames.windowUpdate, 0, 0, increment));
      return times;
    },
    close: () => socket.destroy(),
  };
}

/** Calls `onFrame` with every whole frame. */
function readFrames(
  socket: Socket,
  onFrame: (type: number, flags: number, stream: number, payload: Buffer) => void,
): void {
  let rest: Buffer = Buffer.alloc(0);
  socket.on("data", (chunk: Buffer) => {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    let at = 0;
    while (rest.length >= at + 9 && rest.length >= at + 9 + rest.readUIntBE(at, 3)) {
      const end = at + 9 + rest.readUIntBE(at, 3);
      onFrame(rest[at + 3]!, rest[at + 4]!, rest.readUInt32BE(at + 5), rest.subarray(at + 9, end));
      at = end;
    }
    rest = rest.subarray(at);
  });
}

function frame(type: number, flags: number, stream: number, payload: Buffer = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

/** A gRPC message on the wire: not compressed, its length, itself. */
function delimited(message: Buffer): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

/** What grpc-go sends besides `:method POST` and `:scheme http`. */
function headerFields(path: string): Buffer[] {
  const text = (value: string): Buffer => Buffer.concat([Buffer.from([value.length]), Buffer.from(value)]);
  const fields: [string, string][] = [
    [":path", path],
    [":authority", "localhost"],
    ["content-type", "application/grpc"],
    ["user-agent", "grpc-go/1.75.0"],
    ["te", "trailers"],
    ["grpc-timeout", "44999999u"],
  ];
  return fields.flatMap(([name, value]) => [Buffer.from([0]), text(name), text(value)]);
}
