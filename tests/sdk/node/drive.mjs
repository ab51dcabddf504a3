// Drives the official SDK for Node through a relay; prints what came of each case as one JSON object.
//
//   RELAY       http://..., a relay with every default
//   RELAY_EDGE  https://..., another that serves TLS, takes bodies of 1 MB and has a route /down to nothing
//
// Each case sends its name in `x-case`, by which the upstream's record tells them apart.
import { createHash } from 'node:crypto'
import { createReadStream, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import OpenAI, { toFile } from 'openai'
import { OpenAIRealtimeWebSocket } from 'openai/realtime/websocket'
import { OpenAIRealtimeWS } from 'openai/realtime/ws'
import { WebSocket } from 'ws'

globalThis.WebSocket ??= WebSocket // before Node 22

const KEY = 'sk-test-0123456789'
const GPT = 'gpt-4o-mini'
const { RELAY, RELAY_EDGE, SCRATCH } = process.env
const BYTES = Buffer.alloc(300_000, Buffer.from(Array.from({ length: 251 }, (_, n) => n)))
const said = (content) => ({ model: GPT, messages: [{ role: 'user', content }] })
const sha256 = (data) => createHash('sha256').update(Buffer.from(data)).digest('hex')
const asked = (behaviour) => ({ headers: { 'x-test': JSON.stringify(behaviour) } })

const cases = {
  async chat(client) {
    const answer = await client.chat.completions.create(said('我叫小明'))
    return { content: answer.choices[0].message.content, finish: answer.choices[0].finish_reason }
  },
  async 'chat, gzipped by upstream'(client) {
    const answer = await client.chat.completions.create(said('我是谁?'), asked({ gzip: true }))
    return { content: answer.choices[0].message.content }
  },
  async 'headers of an answer'(client) {
    const { response, request_id: id } = await client.models.list().withResponse()
    return { id: id?.slice(0, 4), limit: response.headers.get('x-ratelimit-limit-requests') }
  },
  async stream(client) {
    const begin = performance.now()
    const arrivals = []
    let text = ''
    let usage = null
    const stream = await client.chat.completions.create(
      { ...said('hello, how are you today?'), stream: true, stream_options: { include_usage: true } },
      { headers: { 'x-demo-delay-ms': '40' } },
    )
    for await (const chunk of stream) {
      arrivals.push(performance.now() - begin)
      text += chunk.choices[0]?.delta.content ?? ''
      usage = chunk.usage ?? usage
    }
    return { text, usage: usage.total_tokens, chunks: arrivals.length, first: arrivals[0], last: arrivals.at(-1) }
  },
  async 'stream, gathered by the SDK'(client) {
    const stream = client.chat.completions.stream(said('我叫小红'))
    return { content: await stream.finalContent() }
  },
  async 'stream, gzipped by upstream'(client) {
    const stream = await client.chat.completions.create({ ...said('我叫小红'), stream: true }, asked({ gzip: true }))
    let text = ''
    for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? ''
    return { text }
  },
  async 'stream, left in the middle'(client) {
    const slow = { headers: { 'x-demo-delay-ms': '100' } }
    const stream = await client.chat.completions.create({ ...said('word '.repeat(100)), stream: true }, slow)
    let chunks = 0
    for await (const _ of stream) if (++chunks === 3) break
    return { chunks, aborted: stream.controller.signal.aborted }
  },
  async 'stream, aborted in the middle'(client) {
    const slow = { headers: { 'x-demo-delay-ms': '100' } }
    const stream = await client.chat.completions.create({ ...said('word '.repeat(100)), stream: true }, slow)
    let chunks = 0
    for await (const _ of stream) if (++chunks === 3) stream.controller.abort()
    return { chunks }
  },
  'aborted before the first byte': (client) =>
    client.chat.completions.create(said('hi'), { ...asked({ never: true }), signal: AbortSignal.timeout(1000) }),
  'timed out before the first byte': (client) =>
    client.chat.completions.create(said('hi'), { ...asked({ never: true }), timeout: 1000 }),
  async 'stream, broken by upstream'(client) {
    const stream = await client.chat.completions.create({ ...said('hi'), stream: true }, asked({ break_after: 600 }))
    let chunks = 0
    try {
      for await (const _ of stream) chunks++
      return { chunks, broken: false }
    } catch (error) {
      return { chunks, broken: true }
    }
  },
  async 'stream, an error inside'(client) {
    const body = 'data: {"error": {"message": "overloaded", "type": "server_error", "code": "busy"}}\n\n'
    const sse = asked({ headers: [['content-type', 'text/event-stream']], chunks: [[body, 0]] })
    for await (const _ of await client.chat.completions.create({ ...said('hi'), stream: true }, sse));
  },
  async responses(client) {
    return { text: (await client.responses.create({ model: GPT, input: '我叫小明' })).output_text }
  },
  async 'responses, streamed'(client) {
    const types = []
    let text = ''
    for await (const event of await client.responses.create({ model: GPT, input: '我叫小明', stream: true })) {
      if (types.at(-1) !== event.type) types.push(event.type)
      if (event.type === 'response.output_text.delta') text += event.delta
    }
    return { text, first: types[0], last: types.at(-1) }
  },
  async embeddings(client) {
    const ask = { model: 'text-embedding-3-small', input: ['a', 'b'] }
    const packed = await client.embeddings.create(ask)
    const plain = await client.embeddings.create({ ...ask, encoding_format: 'float' })
    const of = (answer) => answer.data.map((one) => Array.from(one.embedding))
    return { sizes: of(packed).map((one) => one.length), same: JSON.stringify(of(packed)) === JSON.stringify(of(plain)) }
  },
  async images(client) {
    const ask = { model: 'dall-e-3', prompt: '一只猫', response_format: 'b64_json' }
    const [image] = (await client.images.generate(ask)).data
    return { png: Buffer.from(image.b64_json, 'base64').subarray(1, 4).toString(), prompt: image.revised_prompt }
  },
  async 'audio, speech'(client) {
    const answer = await client.audio.speech.create({ model: 'tts-1', voice: 'alloy', input: '你好' })
    const sound = Buffer.from(await answer.arrayBuffer())
    return { kind: answer.headers.get('content-type'), begin: sound.subarray(0, 3).toString(), length: sound.length }
  },
  async 'audio, transcription'(client) {
    const file = await toFile(BYTES, '录音.mp3')
    const answer = await client.audio.transcriptions.create({ model: 'whisper-1', file })
    return { text: answer.text, same: answer.sha256 === sha256(BYTES) }
  },
  async files(client) {
    const path = join(SCRATCH, 'data.jsonl')
    writeFileSync(path, BYTES)
    const file = await client.files.create({ file: createReadStream(path), purpose: 'batch' })
    const listed = []
    for await (const one of client.files.list()) listed.push(one.id)
    const content = await (await client.files.content(file.id)).arrayBuffer()
    const { deleted } = await client.files.delete(file.id)
    const gone = await client.files.retrieve(file.id).catch((error) => error.status)
    const { filename, bytes, purpose } = file
    return { filename, bytes, purpose, listed: listed.includes(file.id), same: sha256(content) === sha256(BYTES), deleted, gone }
  },
  async models(client) {
    const ids = []
    for await (const model of client.models.list()) ids.push(model.id)
    return { whole: ids.includes(GPT), one: (await client.models.retrieve('gpt-4o')).id }
  },
  async moderations(client) {
    const answer = await client.moderations.create({ model: 'omni-moderation-latest', input: 'violence' })
    return { flagged: answer.results[0].flagged, violence: answer.results[0].categories.violence }
  },

  'error 400': (client) => client.chat.completions.create({ model: GPT, messages: [] }),
  'error 401': (client) => client.withOptions({ apiKey: 'sk-bad-0123456789' }).models.list(),
  'error 403': (client) => client.withOptions({ apiKey: 'sk-403-0123456789' }).models.list(),
  'error 404': (client) => client.chat.completions.create({ ...said('hi'), model: 'no-such-model' }),
  'error 404, of relay': (client) => client.withOptions({ baseURL: `${RELAY}/nowhere` }).models.list(),
  'error 409': (client) => client.models.list(refused(409)),
  'error 413': (client) => client.models.list(refused(413)),
  'error 413, of relay': (client) =>
    client.withOptions({ baseURL: `${RELAY_EDGE}/v1` }).files.create({ file: new File([BYTES, BYTES, BYTES, BYTES], 'a'), purpose: 'batch' }),
  'error 422': (client) => client.models.list(refused(422)),
  'error 429': (client) => client.withOptions({ apiKey: 'sk-rate-0123456789' }).models.list(),
  'error 429, out of quota': (client) => client.withOptions({ apiKey: 'sk-quota-0123456789' }).models.list(),
  'error 500': (client) => client.models.list(refused(500)),
  'error 502': (client) => client.models.list(refused(502)),
  'error 502, of relay': (client) => client.withOptions({ baseURL: `${RELAY_EDGE}/down/v1` }).models.list(),
  'error 502, a page': (client) => client.models.list(asked({ status: 502, headers: [['content-type', 'text/html']], body: '<html>' })),

  'retry-after is waited for': (client) =>
    client.withOptions({ apiKey: 'sk-rate-0123456789', maxRetries: 1 }).models.list(),
  'retry-after-ms is waited for': (client) =>
    client.withOptions({ maxRetries: 1 }).models.list(refused(429, [['retry-after-ms', '700']])),
  'x-should-retry is obeyed': (client) =>
    client.withOptions({ maxRetries: 1 }).models.list(refused(500, [['x-should-retry', 'false']])),

  async 'https'(client) {
    const answer = await client.withOptions({ baseURL: `${RELAY_EDGE}/v1` }).chat.completions.create(said('我叫小明'))
    return { content: answer.choices[0].message.content }
  },
  'realtime, key in a header': (client) => {
    const overTls = client.withOptions({ baseURL: `${RELAY_EDGE}/v1` })
    return conversation(new OpenAIRealtimeWS({ model: 'gpt-realtime' }, overTls))
  },
  'realtime, key in a subprotocol': (client) => {
    const overTls = client.withOptions({ baseURL: `${RELAY_EDGE}/v1` })
    return conversation(new OpenAIRealtimeWebSocket({ model: 'gpt-realtime' }, overTls))
  },
  'realtime, key refused': (client) => {
    const refusing = client.withOptions({ baseURL: `${RELAY_EDGE}/v1`, apiKey: 'sk-bad-0123456789' })
    const realtime = new OpenAIRealtimeWS({ model: 'gpt-realtime' }, refusing)
    return new Promise((resolve) => realtime.on('error', (error) => resolve({ message: error.message })))
  },
  'realtime, without TLS': () => {
    // The SDK itself speaks wss alone.
    const url = `${RELAY.replace('http', 'ws')}/v1/realtime?model=gpt-realtime`
    const socket = new WebSocket(url, ['realtime', `openai-insecure-api-key.${KEY}`, 'openai-beta.realtime-v1'])
    return new Promise((resolve, reject) => {
      socket.on('error', reject)
      socket.on('open', () => socket.send('你好'))
      socket.on('message', (data) => resolve({ text: data.toString(), protocol: socket.protocol }))
    }).finally(() => socket.close())
  },
}

/** An upstream's refusal with this status, in OpenAI's shape. */
function refused(status, headers = []) {
  const body = JSON.stringify({ error: { message: `refused with ${status}`, type: 'test', param: null, code: `c${status}` } })
  return asked({ status, headers: [['content-type', 'application/json'], ['x-request-id', 'req_test'], ...headers], body })
}

/** Sends an event, which the upstream sends back, then has it close the socket. */
function conversation(realtime) {
  const { socket } = realtime
  const event = { type: 'session.update', session: { type: 'realtime', instructions: '说中文' } }
  return new Promise((resolve, reject) => {
    let back = null
    realtime.on('error', reject)
    realtime.on('event', (received) => {
      back = received
      socket.send('/close 4001 bye')
    })
    socket.addEventListener('open', () => realtime.send(event))
    socket.addEventListener('close', ({ code, reason }) =>
      resolve({ same: JSON.stringify(back) === JSON.stringify(event), protocol: socket.protocol, code, reason }))
  })
}

/** What an error tells of itself. */
function told(error) {
  const { status, code, type, requestID } = error
  const known = { class: error.constructor.name, status, code, type, requestID, message: error.message }
  return Object.fromEntries(Object.entries(known).filter(([, value]) => value !== undefined))
}

/** What came of one case. */
async function run(name, drive) {
  const headers = { 'x-case': encodeURIComponent(name) }
  const client = new OpenAI({ apiKey: KEY, baseURL: `${RELAY}/v1`, maxRetries: 0, timeout: 15_000, defaultHeaders: headers })
  let timer
  const late = new Promise((_, reject) => (timer = setTimeout(reject, 20_000, new Error('not done in 20 s'))))
  try {
    return { value: (await Promise.race([drive(client), late])) ?? null }
  } catch (error) {
    return { error: told(error) }
  } finally {
    clearTimeout(timer)
  }
}

const results = {}
for (const [name, drive] of Object.entries(cases)) results[name] = await run(name, drive)
process.stdout.write(`${JSON.stringify(results)}\n`, () => process.exit(0))
