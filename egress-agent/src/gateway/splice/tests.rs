use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::{LocalSet, spawn_local},
};

use super::{
    pipe::{POOL, Pipe},
    *,
};

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

/// Runs a copy between two pairs; the outer ends go to `test`.
async fn with_copy<F: Future<Output = ()>>(
    idle: Duration,
    test: impl FnOnce(TcpStream, TcpStream) -> F,
) -> (End, u64, u64, Option<Splice>) {
    let (client, mut downstream) = pair().await;
    let (mut upstream, server) = pair().await;
    let local = LocalSet::new();
    let copy = local.run_until(async move {
        let copy = spawn_local(async move {
            let relayed = Relayed::default();
            let end = copy_both(&mut downstream, &mut upstream, &relayed, idle).await;
            if end != End::Eof {
                drop(downstream.set_zero_linger());
                drop(upstream.set_zero_linger());
            }
            let bytes = &relayed.bytes;
            (
                end,
                bytes.sent.get(),
                bytes.received.get(),
                relayed.splice.get(),
            )
        });
        test(client, server).await;
        copy.await.unwrap()
    });
    copy.await
}

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_half_close_is_passed_on_and_the_other_way_stays_open() {
    let result = with_copy(
        LONG,
        async |mut client: TcpStream, mut server: TcpStream| {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut asked = String::new();
            server.read_to_string(&mut asked).await.unwrap();
            assert_eq!(asked, "question");
            server.write_all(b"a longer answer").await.unwrap();
            server.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "a longer answer");
        },
    )
    .await;
    assert_eq!(result, (End::Eof, 8, 15, None));
}

#[tokio::test]
async fn bulk_both_ways_at_once_arrives_unchanged_and_is_counted_exactly() {
    const UP: usize = 9_000_001;
    const DOWN: usize = 7_654_321;
    let pattern = |length: usize| {
        (0..length)
            .map(|n| (n * 7 + n / 251) as u8)
            .collect::<Vec<_>>()
    };
    let result = with_copy(LONG, async |client: TcpStream, server: TcpStream| {
        let side = async |mut stream: TcpStream, send: Vec<u8>, expect: Vec<u8>| {
            let (mut read, mut write) = stream.split();
            let mut received = Vec::new();
            let (sent, read) = tokio::join!(
                async {
                    write.write_all(&send).await?;
                    write.shutdown().await
                },
                read.read_to_end(&mut received)
            );
            sent.unwrap();
            read.unwrap();
            assert!(received == expect);
        };
        tokio::join!(
            side(client, pattern(UP), pattern(DOWN)),
            side(server, pattern(DOWN), pattern(UP))
        );
    })
    .await;
    assert_eq!(
        result,
        (End::Eof, UP as u64, DOWN as u64, Some(Splice::Used))
    );
    POOL.with_borrow(|pool| assert!(pool.made >= 1 && pool.free.len() == pool.made));
}

#[tokio::test]
async fn a_reset_is_passed_on() {
    let (end, ..) = with_copy(LONG, async |client: TcpStream, mut server: TcpStream| {
        client.set_zero_linger().unwrap();
        drop(client);
        let error = server.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    })
    .await;
    assert_eq!(end, End::Downstream);
}

#[tokio::test]
async fn idle_ends() {
    let idle = Duration::from_millis(50);
    let (end, ..) = with_copy(idle, async |mut client: TcpStream, _server: TcpStream| {
        assert!(client.read(&mut [0; 8]).await.is_err());
    })
    .await;
    assert_eq!(end, End::Idle);
}

#[tokio::test]
async fn a_pipe_that_holds_bytes_never_goes_back() {
    let (mut client, accepted) = pair().await;
    client.write_all(b"left behind").await.unwrap();
    accepted.readable().await.unwrap();
    let mut pipe = Pipe::take().unwrap();
    assert_eq!(pipe.fill(&accepted).unwrap(), 11);
    drop(pipe);
    POOL.with_borrow(|pool| assert!(pool.free.is_empty() && pool.made == 0));
}

#[tokio::test]
async fn what_a_pipe_holds_can_be_taken_out() {
    let (mut client, accepted) = pair().await;
    client.write_all(b"stuck").await.unwrap();
    accepted.readable().await.unwrap();
    let mut pipe = Pipe::take().unwrap();
    pipe.fill(&accepted).unwrap();
    assert_eq!(pipe.empty().unwrap(), b"stuck");
    drop(pipe);
    POOL.with_borrow(|pool| assert!(pool.free.len() == 1 && pool.made == 1));
}

/// `BULK` bytes from the client to the server, which waits for `pause` after the first.
async fn bulk(pause: Duration) -> (End, u64, u64, Option<Splice>) {
    with_copy(
        LONG,
        async move |mut client: TcpStream, mut server: TcpStream| {
            let sent: Vec<u8> = (0..BULK).map(|n| (n * 7 + n / 251) as u8).collect();
            let mut received = Vec::new();
            tokio::join!(
                async {
                    client.write_all(&sent).await.unwrap();
                    client.shutdown().await.unwrap();
                },
                async {
                    received.push(server.read_u8().await.unwrap());
                    tokio::time::sleep(pause).await;
                    server.read_to_end(&mut received).await.unwrap();
                    server.shutdown().await.unwrap();
                },
            );
            assert!(received == sent);
            // The server's end is passed on.
            assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
        },
    )
    .await
}

const BULK: usize = 12_345_678;

#[tokio::test]
async fn a_reader_that_stalls_does_not_keep_a_pipe() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let copy = spawn_local(bulk(Duration::from_secs(3)));
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            POOL.with_borrow(|pool| {
                assert!(
                    pool.made >= 1 && pool.free.len() == pool.made,
                    "{}",
                    pool.made
                );
            });
            let all = (End::Eof, BULK as u64, 0, Some(Splice::Used));
            assert_eq!(copy.await.unwrap(), all);
        })
        .await;
}

/// On a thread of its own, where a system call fails with this error from now on; where `rules` are
/// given, only as they say.
fn without(
    call: libc::c_long,
    rules: Vec<SeccompRule>,
    errno: i32,
) -> (End, u64, u64, Option<Splice>) {
    let thread = std::thread::spawn(move || {
        let refuse = SeccompAction::Errno(u32::try_from(errno).unwrap());
        let arch = std::env::consts::ARCH.try_into().unwrap();
        let rules = [(call, rules)].into();
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).unwrap();
        apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(bulk(Duration::ZERO))
    });
    thread.join().unwrap()
}

#[test]
fn where_the_kernel_does_not_splice_it_is_copied_and_said() {
    for errno in [libc::EINVAL, libc::ENOSYS] {
        let copied = without(libc::SYS_splice, vec![], errno);
        assert_eq!(copied, (End::Eof, BULK as u64, 0, Some(Splice::Refused)));
    }
}

#[test]
fn where_there_is_no_pipe_it_is_copied_and_said() {
    // As it is for a user whose pipes are all in use (fcntl(2), F_SETPIPE_SZ).
    let (second, equals) = (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq);
    let resizes = SeccompCondition::new(1, second, equals, libc::F_SETPIPE_SZ as u64).unwrap();
    let rules = vec![SeccompRule::new(vec![resizes]).unwrap()];
    let copied = without(libc::SYS_fcntl, rules, libc::EPERM);
    assert_eq!(copied, (End::Eof, BULK as u64, 0, Some(Splice::NoPipe)));
}
