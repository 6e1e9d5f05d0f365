// One login by ssh2 with the agent of SSH_AUTH_SOCK: PORT USER; prints what the server's command says, or why there is none.
import ssh2 from 'ssh2'

const [port, username] = process.argv.slice(2)
const client = new ssh2.Client()
client.on('ready', () => {
  client.exec('echo it is in', (error, stream) => {
    if (error) throw error
    stream.on('data', (data) => process.stdout.write(data))
    stream.on('close', () => client.end())
  })
})
client.on('error', (error) => {
  console.log(`refused: ${error.message}`)
  process.exit(1)
})
client.connect({ host: '127.0.0.1', port: Number(port), username, agent: process.env.SSH_AUTH_SOCK, readyTimeout: 30000 })
